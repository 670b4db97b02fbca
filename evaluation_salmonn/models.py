# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
The model under test, whatever its family: clips and prompts in, answers out, through its own processor.

    ChatModel      SALMONN, Qwen2-Audio, and others whose chat template takes clips
    VoxtralModel   Voxtral, whose tokenizer takes encoded clips
    GraniteModel   Granite Speech, whose chat template is of text
    WhisperModel   Whisper alone: transcription
    CascadeModel   Whisper, then a text LLM that reads the transcript
"""

import base64
import io
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoModelForSpeechSeq2Seq,
    AutoProcessor,
    AutoTokenizer,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
)

# Importing it tells Transformers' Auto classes about SALMONN.
import salmonn_transformers  # noqa: F401
from conversion_salmonn.loading import choose_device, find_base
from data_salmonn.audio import SAMPLING_RATE  # that of every family here
from evaluation_salmonn.provenance import weights_digest
from evaluation_salmonn.task import Task


logger = logging.getLogger(__name__)

CASCADE_PROMPT = 'This is what was said in a recording: "{transcript}"\n\n{prompt}'


class AudioModel(ABC):
    """
    Contract of a model under test.

    ```
    answer([clip of 16 kHz, …], ["What is heard?", …], task, max_new_tokens=200) -> ["A dog barks.", …]
    ```

    An answer must not depend on the other clips of its batch beyond rounding.
    """

    def __init__(self, model, processor):
        self.model, self.processor = model, processor

    def check(self, task: Task) -> None:
        """Raises `ValueError` if the model cannot do `task`, before anything is generated."""

    @abstractmethod
    def answer(
        self, clips: Sequence[np.ndarray], prompts: Sequence[str], task: Task | None, **generation
    ) -> list[str]:
        """One answer for each clip of shape `(samples,)` and its prompt; without a task, as the prompt alone asks."""

    def describe(self) -> dict:
        """What the result file says of the model."""
        return {
            "family": type(self).__name__,
            "class": type(self.model).__name__,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "weights": weights_digest(self.model),
            "revision": getattr(self.model.config, "_commit_hash", None),
        }

    def _move(self, inputs) -> dict:
        """Model inputs on the model's device, floating point in its dtype."""
        moved = {}
        for name, value in inputs.items():
            dtype = self.model.dtype if value.is_floating_point() else None
            moved[name] = value.to(self.model.device, dtype)
        return moved

    def _continue(self, inputs, tokenizer, **generation) -> list[str]:
        """Generates and decodes what comes after the prompts."""
        inputs = self._move(inputs)
        output = self.model.generate(**inputs, **generation)
        new_tokens = output[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in tokenizer.batch_decode(new_tokens, skip_special_tokens=True)]


class ChatModel(AudioModel):
    """A model whose processor's chat template takes clips."""

    def answer(self, clips, prompts, task, **generation):
        conversations = [
            [{"role": "user", "content": [self._audio_part(clip), {"type": "text", "text": prompt}]}]
            for clip, prompt in zip(clips, prompts)
        ]
        self.processor.tokenizer.padding_side = "left"  # or answers would follow padding
        inputs = self.processor.apply_chat_template(
            conversations, add_generation_prompt=True, tokenize=True, return_dict=True, **self._template_options()
        )
        return self._continue(inputs, self.processor.tokenizer, **generation)

    def _audio_part(self, clip: np.ndarray) -> dict:
        return {"type": "audio", "audio": clip}

    def _template_options(self) -> dict:
        options = {"padding": True, "return_tensors": "pt", "sampling_rate": SAMPLING_RATE}
        return {"processor_kwargs": options}


class SalmonnChatModel(ChatModel):
    """SALMONN, which cuts long clips at silence and transcribes each piece with its own prompt where a task says `segments`."""

    def answer(self, clips, prompts, task, **generation):
        if not task.segments:
            return super().answer(clips, prompts, task, **generation)
        inputs = self.processor(audio=list(clips), sampling_rate=SAMPLING_RATE, return_tensors="pt")
        output = self.model.generate(**self._move(inputs), **generation)
        return [text.strip() for text in self.processor.batch_decode(output, skip_special_tokens=True)]


class VoxtralModel(ChatModel):
    """Voxtral: clips go as WAV files in base64, and its tokenizer is that of mistral-common."""

    def _audio_part(self, clip):
        buffer = io.BytesIO()
        soundfile.write(buffer, clip, SAMPLING_RATE, format="WAV", subtype="FLOAT")
        return {"type": "audio", "base64": base64.b64encode(buffer.getvalue()).decode()}

    def _template_options(self):
        return {"return_tensors": "pt"}


class GraniteModel(AudioModel):
    """Granite Speech: its chat template is of text, in which a token stands for the clip."""

    def answer(self, clips, prompts, task, **generation):
        tokenizer = self.processor.tokenizer
        tokenizer.padding_side = "left"
        texts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": f"{self.processor.audio_token}{prompt}"}],
                tokenize=False,
                add_generation_prompt=True,
            )
            for prompt in prompts
        ]
        clips = [torch.from_numpy(clip) for clip in clips]
        inputs = self.processor(text=texts, audio=clips, device=str(self.model.device), return_tensors="pt")
        return self._continue(inputs, tokenizer, **generation)


class WhisperModel(AudioModel):
    """Whisper alone, which reads no prompt: it transcribes in the task's language."""

    def check(self, task):
        if task.kind != "transcription":
            raise ValueError(
                f"`tasks` must be transcription for Whisper alone, which reads no prompt, got {task.name!r} "
                f"({task.kind}). Give it an LLM (--llm) to make a cascade."
            )

    def answer(self, clips, prompts, task, **generation):
        extractor = self.processor.feature_extractor
        # beyond one window Whisper decodes window by window, by its time stamps
        is_long = max(map(len, clips)) > extractor.n_samples
        options = {"truncation": False, "padding": "longest"} if is_long else {}
        inputs = extractor(
            list(clips), sampling_rate=SAMPLING_RATE, return_tensors="pt", return_attention_mask=True, **options
        )
        if is_long:
            generation["return_timestamps"] = True
        if getattr(self.model.generation_config, "is_multilingual", False):
            generation |= {"language": task.language, "task": "transcribe"}
        generation["max_new_tokens"] = min(generation.get("max_new_tokens", 440), self._longest_output())
        output = self.model.generate(**self._move(inputs), **generation)
        return [text.strip() for text in self.processor.batch_decode(output, skip_special_tokens=True)]

    def _longest_output(self) -> int:
        return self.model.config.max_target_positions - 8  # its prompt takes up to 4 tokens, time stamps the rest


class CascadeModel(AudioModel):
    """Whisper, then an LLM that is told what was said: the reference system of 2310.13289, table 3."""

    def __init__(self, recognizer: WhisperModel, llm, tokenizer):
        super().__init__(llm, tokenizer)
        self.recognizer = recognizer

    def answer(self, clips, prompts, task, **generation):
        transcripts = self.recognizer.answer(clips, prompts, task, num_beams=generation.get("num_beams", 1))
        if task.kind == "transcription":
            return transcripts
        tokenizer = self.processor
        texts = [
            CASCADE_PROMPT.format(transcript=transcript, prompt=prompt)
            for transcript, prompt in zip(transcripts, prompts)
        ]
        if tokenizer.chat_template:
            texts = [
                tokenizer.apply_chat_template(
                    [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
                )
                for text in texts
            ]
        tokenizer.padding_side = "left"
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        inputs = tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=not tokenizer.chat_template)
        inputs.pop("token_type_ids", None)
        return self._continue(inputs, tokenizer, **generation)

    def describe(self):
        return {**super().describe(), "prompt": CASCADE_PROMPT, "recognizer": self.recognizer.describe()}


FAMILIES: dict[str, type[AudioModel]] = {
    "salmonn": SalmonnChatModel,
    "whisper": WhisperModel,
    "voxtral": VoxtralModel,
    "granite_speech": GraniteModel,
    "granite_speech_plus": GraniteModel,
}


def load_model(
    name: str | Path,
    *,
    llm: str | Path | None = None,
    adapter: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: str | None = None,
    trust_remote_code: bool = False,
) -> AudioModel:
    """
    The model in the folder (or of the Hub id) `name`, or the adapter there on its base model, ready to answer.

    Args:
        llm: folder or Hub id of a text LLM that reads what a Whisper transcribes: a cascade.
        adapter: folder or Hub id of a PEFT adapter to load on the model.
        device: default: a GPU if there is one.
        dtype: default: float32 on a CPU, else the model's own.

    Raises `ValueError` if the model does not take audio.
    """
    device = choose_device(device)
    options = {
        "dtype": dtype or ("float32" if device.type == "cpu" else "auto"),
        "trust_remote_code": trust_remote_code,
    }
    with_config = find_base(name) or name  # what `salmonn train` writes is an adapter, which has no configuration
    config = AutoConfig.from_pretrained(with_config, trust_remote_code=trust_remote_code)
    family = FAMILIES.get(config.model_type, ChatModel)
    _check_takes_audio(name, config)
    if llm is not None and family is not WhisperModel:
        raise ValueError(f"`llm` goes with a Whisper, got {llm} for {name}, a {config.model_type}.")

    processor = AutoProcessor.from_pretrained(with_config, trust_remote_code=trust_remote_code)
    if not hasattr(processor, "feature_extractor") and not hasattr(processor, "audio_processor"):
        raise ValueError(f"`model` must come with a processor for audio, got {type(processor).__name__} in {name}.")
    auto_class = AutoModelForSpeechSeq2Seq if family is WhisperModel else AutoModelForMultimodalLM
    model = auto_class.from_pretrained(name, **options).to(device).eval()
    if adapter is not None:
        if getattr(model, "_hf_peft_config_loaded", False):
            raise ValueError(
                f"`adapter` {adapter} is for a model without one, but {name} comes with an adapter. Give its base model, "
                "the folder without adapter_config.json, or leave `adapter` out."
            )
        model.load_adapter(str(adapter))
        model.eval()
    loaded = family(model, processor)
    if llm is None:
        return loaded
    language_model = AutoModelForCausalLM.from_pretrained(llm, **options).to(device).eval()
    return CascadeModel(
        loaded, language_model, AutoTokenizer.from_pretrained(llm, trust_remote_code=trust_remote_code)
    )


def _check_takes_audio(name: str | Path, config) -> None:
    """Raises `ValueError` for models that read text only, before their weights are read."""
    known = config.model_type in FAMILIES or config.model_type in MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
    remote = "AutoModelForMultimodalLM" in (getattr(config, "auto_map", None) or {})
    if not known and not remote:
        what = (
            "a text LLM" if config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES else "not an audio language model"
        )
        raise ValueError(f"`model` must take audio, got {name}, which is {what} ({config.model_type}).")
