# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
SALMONN on vLLM's Transformers backend, which runs the model's own code with vLLM's attention, cache and scheduler. What
the backend cannot know is here: that clips have any number of segments, what a transcription asks, that the placeholder
is an input only, and how much memory encoders take.
"""

from collections.abc import Mapping

import torch

from data_salmonn.extras import needs_extra
from modeling_salmonn import PLACEHOLDER_SCORE
from serving_salmonn.requests import check_merged, check_placeholders, longest_piece, profiled_segments


with needs_extra("vllm"):
    from vllm.config import ModelConfig, SpeechToTextConfig, VllmConfig
    from vllm.config.speech_to_text import SpeechToTextParams
    from vllm.inputs import TokensPrompt
    from vllm.model_executor.models.interfaces import StreamingTranscriptionPostProcessor, SupportsTranscription
    from vllm.model_executor.models.transformers import (
        MultiModalDummyInputsBuilder,
        MultiModalProcessingInfo,
        MultiModalProcessor,
        TransformersMultiModalForCausalLM,
    )
    from vllm.multimodal import MULTIMODAL_REGISTRY
    from vllm.transformers_utils.processor import cached_processor_from_config


class SalmonnProcessingInfo(MultiModalProcessingInfo):
    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> dict[str, int]:
        return {"audio": seq_len}  # a clip has as many segments as the prompt has room for


class SalmonnDummyInputsBuilder(MultiModalDummyInputsBuilder):
    def get_dummy_mm_data(self, seq_len: int, mm_counts: Mapping[str, int], mm_options) -> dict[str, list]:
        """The most that the encoders read at once, for vLLM to measure how much memory that takes."""
        config, extractor = self.info.get_hf_config(), self.info.get_hf_processor().feature_extractor
        length = profiled_segments(config, seq_len, mm_counts.get("audio", 0)) * extractor.segment_samples
        return {
            "audio": self._get_dummy_audios(
                length=length, num_audios=mm_counts.get("audio", 0), overrides=mm_options.get("audio")
            )
        }


class SalmonnMultiModalProcessor(MultiModalProcessor):
    def apply(self, inputs, timing_ctx):
        token = self.info.get_hf_config().audio_token_id
        check_placeholders(inputs.prompt.count(token), inputs.mm_data_items.get_count("audio", strict=False))
        return super().apply(inputs, timing_ctx)


class FirstSpaceRemover(StreamingTranscriptionPostProcessor):
    """Leaves out the space with which a streamed transcript begins: vLLM decodes token by token."""

    def __init__(self):
        self.is_begun = False

    def process_delta(self, delta: str, finished: bool) -> str:
        delta = delta if self.is_begun else delta.lstrip()
        self.is_begun = self.is_begun or bool(delta)
        return delta


@MULTIMODAL_REGISTRY.register_processor(
    SalmonnMultiModalProcessor, info=SalmonnProcessingInfo, dummy_inputs=SalmonnDummyInputsBuilder
)
class VllmSalmonn(TransformersMultiModalForCausalLM, SupportsTranscription):
    """A SALMONN whose LoRA is merged, as `salmonn merge` makes it, or that has none."""

    supported_languages = {"en": "English"}  # others are transcribed too, with a warning in the log

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = ""):
        check_merged(vllm_config.model_config.model)
        super().__init__(vllm_config=vllm_config, prefix=prefix)

    def _process_audio_input(
        self,
        input_features: torch.Tensor | list[torch.Tensor] | None = None,
        input_features_mask: torch.Tensor | list[torch.Tensor] | None = None,
        num_audio_tokens: torch.Tensor | None = None,
        **kwargs,
    ) -> list[torch.Tensor] | None:
        """
        The embeddings of each clip, `(audio tokens of the clip, hidden_size)`, of features `(frames, rows)` and a mask
        `(frames,)` for each. All clips of a step are encoded together, in passes of `max_segments_at_once`.
        """
        if input_features is None:
            return None
        clips = (self.model.split_clips(*(x[None] for x in clip)) for clip in zip(input_features, input_features_mask))
        features, mask, segment_ids = map(torch.cat, zip(*clips))
        output = self.model.get_audio_features(features, mask, segment_ids, return_dict=True)
        return list(output.pooler_output.split(num_audio_tokens.flatten().tolist()))

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        logits = super().compute_logits(hidden_states)
        if logits is not None:  # of several devices, one has them
            logits[..., self.config.audio_token_id] = PLACEHOLDER_SCORE
        return logits

    @classmethod
    def get_speech_to_text_config(cls, model_config: ModelConfig, task_type: str) -> SpeechToTextConfig:
        """Recordings are cut, as elsewhere in this project, where the last third of a piece is quietest."""
        extractor = cached_processor_from_config(model_config).feature_extractor
        longest = longest_piece(extractor)
        longest = None if longest is None else max(int(longest), 1)  # vLLM counts whole seconds
        return SpeechToTextConfig(
            sample_rate=extractor.sampling_rate,
            max_audio_clip_s=longest,
            overlap_chunk_second=1 if longest is None else max(longest // 3, 1),
            min_energy_split_window_size=extractor.sampling_rate // 5,
        )

    @classmethod
    def get_generation_prompt(cls, stt_params: SpeechToTextParams) -> TokensPrompt:
        """What `generate` asks of a clip without a prompt. Raises `ValueError` for what a transcription cannot be told."""
        if stt_params.task_type != "transcribe":
            raise ValueError("`/v1/audio/translations` names no language: ask for a translation in a chat")
        if stt_params.request_prompt:
            raise ValueError("`prompt` must be left out of a transcription: ask about a clip in a chat")
        ids = cached_processor_from_config(stt_params.model_config).transcription_prompt_ids()
        return TokensPrompt(prompt_token_ids=ids, multi_modal_data={"audio": stt_params.audio})

    @classmethod
    def post_process_output(cls, text: str) -> str:
        return text.strip()

    @classmethod
    def get_streaming_post_processor_cls(cls) -> type[StreamingTranscriptionPostProcessor]:
        return FirstSpaceRemover
