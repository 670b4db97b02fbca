"""`transformers serve` with the `openai` client, and what vLLM's Transformers backend asks of a model."""

import json
import os

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from served import chat, save_served, serving, wav
from tiny_nano import save_nano
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from modeling_salmonn import SalmonnForConditionalGeneration, SalmonnModel
from processing_salmonn import SalmonnProcessor
from tiny_salmonn import noise, tiny_config, tiny_model, tiny_processor


openai = pytest.importorskip("openai")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of fixed length with an adapter."""
    return save_served(tmp_path_factory.mktemp("served") / "salmonn")


@pytest.fixture(scope="module")
def nano(tmp_path_factory):
    """The settings of the shipped model."""
    folder = save_nano(tmp_path_factory.mktemp("served-nano") / "salmonn-nano")
    file = os.path.join(folder, "generation_config.json")
    with open(file) as settings:
        shorter = json.load(settings) | {"max_new_tokens": 12}
    with open(file, "w") as settings:
        json.dump(shorter, settings)
    return folder


@pytest.fixture(scope="module", params=["folder", "nano"])
def served(request, tmp_path_factory):
    """A model and a client of its server, which is started as the documentation does, for this model alone."""
    folder = request.getfixturevalue(request.param)
    command = ["transformers.cli.transformers", "serve", folder, "--trust-remote-code", "--device", "cpu"]
    with serving(tmp_path_factory.mktemp("server"), *command) as address:
        yield folder, openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=300)


def test_chat(served):
    """Asked with nothing but what the `openai` client asks for by itself."""
    folder, client = served
    request_arguments = chat(folder, wav(2).getvalue())
    answer = client.chat.completions.create(**request_arguments)
    model = SalmonnForConditionalGeneration.from_pretrained(folder)
    processor = SalmonnProcessor.from_pretrained(folder)
    assert answer.usage.completion_tokens <= 5 and answer.usage.prompt_tokens > 11
    content = [{"type": "audio", "audio": noise(2)}, {"type": "text", "text": "What is this?"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True
    )
    output = model.generate(**inputs, max_new_tokens=5)[0, inputs["input_ids"].shape[1] :]
    assert answer.choices[0].message.content == processor.decode(output, skip_special_tokens=True)

    stream = client.chat.completions.create(**request_arguments, stream=True)
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert "".join(pieces) == answer.choices[0].message.content and len(pieces) > 1


def test_another_model_is_refused(served, tmp_path):
    folder, client = served
    for other in (str(tmp_path), "somebody/model"):
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(**chat(folder, wav(2).getvalue()) | {"model": other})
        assert f"pinned to '{folder}'" in refused.value.response.text
    assert client.chat.completions.create(**chat(folder, wav(2).getvalue())).choices


@pytest.mark.parametrize("seconds", [2, 2.78, 6])
def test_transcription(served, seconds):
    folder, client = served
    transcript = client.audio.transcriptions.create(model=folder, file=wav(seconds))
    model = SalmonnForConditionalGeneration.from_pretrained(folder)
    processor = SalmonnProcessor.from_pretrained(folder)
    output = model.generate(**processor(audio=noise(seconds)))[0]
    assert transcript.text == processor.decode(output, skip_special_tokens=True)
    # Transformers streams plain text, not the events of OpenAI
    request = client.audio.transcriptions.with_streaming_response
    with request.create(model=folder, file=wav(seconds), stream=True) as response:
        body = response.read().decode()
    assert body.startswith("data: ") and "".join(body.split("data: ")).replace("\n", "") == transcript.text.replace(
        "\n", ""
    )


class TestVllmTransformersBackend:
    """The conditions of vLLM's Transformers backend, of which audio models have some of their own."""

    def test_base_model_is_what_it_loads(self, folder):
        with open(os.path.join(folder, "config.json")) as file:
            assert json.load(file)["auto_map"]["AutoModel"] == "modeling_salmonn.SalmonnModel"
        assert SalmonnModel._supports_attention_backend
        assert SalmonnModel.input_modalities == ("audio", "text")

    def test_attention_arguments_reach_every_layer_of_the_llm(self):
        model = tiny_model(tiny_config())
        seen = []

        def attention(module, query, key, value, attention_mask, marker=None, **kwargs):
            seen.append(marker)
            return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, **kwargs)

        ALL_ATTENTION_FUNCTIONS.register("marked", attention)
        try:
            model.model.language_model.config._attn_implementation = "marked"
            model.model(input_ids=torch.tensor([[1, 5, 6]]), marker=7)
        finally:
            ALL_ATTENTION_FUNCTIONS._global_mapping.pop("marked")
        assert seen == [7, 7]

    def test_longest_audio_is_found(self):
        config = tiny_config(segment_seconds=30)
        assert config.audio_config.max_source_positions == 1500
        extractor = tiny_processor(config).feature_extractor
        assert (extractor.sampling_rate, extractor.chunk_length) == (16000, 30)

    def test_features_need_no_prompt_and_keep_clips_apart(self):
        config = tiny_config(segment_seconds=30)
        model, processor = tiny_model(config).model, tiny_processor(config)
        clips = [noise(1, 1), noise(31, 2)]
        features = processor.feature_extractor(clips, sampling_rate=16000, return_tensors="pt")
        with torch.no_grad():
            together = model.get_audio_features(**features, return_dict=True).pooler_output
            alone = [
                model.get_audio_features(
                    **processor.feature_extractor(clip, sampling_rate=16000, return_tensors="pt"), return_dict=True
                ).pooler_output
                for clip in clips
            ]
        torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)
        counts = processor._get_num_multimodal_tokens(audio_lengths=[len(clip) for clip in clips])
        assert counts.num_audio_tokens == [len(rows) for rows in alone]

    def test_replacement_offsets(self):
        processor = tiny_processor(tiny_config(segment_seconds=30))
        inputs = processor(
            text=["<|audio|> and <|audio|>"],
            audio=[noise(1), noise(31)],
            return_text_replacement_offsets=True,
            return_mm_token_type_ids=True,
        )
        offsets = inputs["text_replacement_offsets"][0]
        assert [len(offset["replacement"]) // len("<|audio|>") for offset in offsets] == [88, 176]
        assert (np.asarray(inputs["mm_token_type_ids"]) == 3).sum() == 88 + 176

    def test_language_model_is_found(self):
        model = tiny_model(tiny_config(segment_seconds=30))
        assert model.model.language_model.config is model.config.text_config

    def test_merged_models_hold_no_adapter(self, folder, tmp_path):
        model = SalmonnForConditionalGeneration.from_pretrained(folder).merge_and_unload()
        model.save_pretrained(tmp_path)
        assert not [
            name for name in load_file(tmp_path / "model.safetensors") if "lora" in name or "base_layer" in name
        ]
