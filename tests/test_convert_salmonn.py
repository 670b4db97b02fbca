# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Conversion of released SALMONN weights, on a tiny checkpoint that the released code wrote."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from conversion_salmonn.checkpoint_io import TensorFolder, output_folder, read_pickle
from conversion_salmonn.convert_salmonn import LEFTOVERS, RENAMED, convert_salmonn
from conversion_salmonn.parts import read_llm, read_whisper
from modeling_salmonn import SalmonnForConditionalGeneration
from processing_salmonn import SalmonnProcessor


FIXTURES = Path(__file__).parent / "fixtures"
CKPT = FIXTURES / "salmonn" / "salmonn_tiny.pth"
WHISPER = FIXTURES / "salmonn" / "whisper"
LLM = FIXTURES / "salmonn" / "llama"
BEATS = FIXTURES / "beats" / "BEATs_tiny.pt"
VOCABULARY = 600


def convert(output, **changes):
    arguments = {"ckpt": CKPT, "whisper": WHISPER, "llm": LLM, "beats": BEATS, "qformer_heads": 4, **changes}
    return convert_salmonn(output=output, **arguments)


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    return convert(tmp_path_factory.mktemp("converted") / "model")


@pytest.fixture(scope="module")
def model(converted):
    return SalmonnForConditionalGeneration.from_pretrained(converted, dtype=torch.float32).eval()


@pytest.fixture
def checkpoint():
    return torch.load(CKPT, weights_only=True)


def save_checkpoint(checkpoint, folder):
    path = folder / "changed.pth"
    torch.save(checkpoint, path)
    return path


def copy_folder(source, target, **settings):
    """A copy of a model folder with other settings in its config.json."""
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text()) | settings
    (target / "config.json").write_text(json.dumps(config))
    return target


# ----------------------------------------------------------------------------------------------------------------------
# What comes out


def test_every_trained_tensor_arrives_unchanged(checkpoint, model):
    state = model.state_dict()
    arrived = 0
    for name, tensor in checkpoint["model"].items():
        ours = next((re.sub(old, new, name) for old, new in RENAMED if re.search(old, name)), None)
        if ours is None:
            assert any(re.search(pattern, name) for pattern in LEFTOVERS), name
            continue
        if ".lora_" not in ours:  # PEFT keeps trained modules one level deeper
            ours = re.sub(r"(connector|speech_layer_norm|beats_layer_norm)\.", r"\1.modules_to_save.default.", ours)
        assert torch.equal(state[ours], tensor), ours
        arrived += 1
    assert arrived == len(checkpoint["model"]) - 4  # two rotary buffers, position ids, one copy of BEATs' bias


def test_frozen_parts_arrive_unchanged(model):
    state = model.state_dict()
    whisper = load_file(WHISPER / "model.safetensors")
    for name, tensor in whisper.items():
        if name.startswith("model.encoder."):
            assert torch.equal(state[name.replace("model.encoder.", "model.speech_encoder.")], tensor), name
    llm = load_file(LLM / "model.safetensors")
    base = {name.replace(".base_layer.", "."): tensor for name, tensor in state.items()}
    for name, tensor in llm.items():
        if "embed_tokens" not in name and "lm_head" not in name and "inv_freq" not in name:
            assert torch.equal(base[name.replace("model.", "model.language_model.", 1)], tensor.float()), name


def test_new_vocabulary_rows_are_zero(model):
    llm = load_file(LLM / "model.safetensors")
    for name, rows in (
        ("model.embed_tokens.weight", model.get_input_embeddings().weight),
        ("lm_head.weight", model.lm_head.weight),
    ):
        assert torch.equal(rows[:VOCABULARY], llm[name].float())
        assert rows.shape[0] == VOCABULARY + 1 and not rows[VOCABULARY:].any()


def test_source_dtypes_are_kept(converted):
    weights = load_file(converted / "model.safetensors")
    assert weights["lm_head.weight"].dtype == torch.float16
    assert weights["model.speech_encoder.conv1.weight"].dtype == torch.float32
    adapter = load_file(converted / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in adapter.values()} == {torch.float32}
    # The default dtype of loading is the LLM's: that of Whisper would double its size.
    assert json.loads((converted / "config.json").read_text())["dtype"] == "float16"


def test_config(model):
    config = model.config
    assert (config.connector_type, config.num_query_tokens, config.window_frames) == ("qformer", 1, 17)
    assert (config.qformer_config.num_hidden_layers, config.qformer_config.num_attention_heads) == (2, 4)
    assert (config.qformer_config.intermediate_size, config.qformer_config.layer_norm_eps) == (128, 1e-12)
    assert config.text_config.vocab_size == VOCABULARY + 1 and config.audio_token_id == VOCABULARY
    assert config.transcription_prompt_ids.count(VOCABULARY) == 1
    lora = model.peft_config["default"]
    assert (lora.r, lora.lora_alpha, lora.lora_dropout) == (8, 32, 0.1)


def test_generation_is_greedy(model):
    generation = model.generation_config
    assert (generation.do_sample, generation.num_beams, generation.max_new_tokens) == (False, 1, 200)
    assert (generation.bos_token_id, generation.eos_token_id, generation.pad_token_id) == (1, 2, 0)


def test_folder_names_no_place_it_came_from(converted):
    for file in converted.glob("*.json"):
        assert str(FIXTURES) not in file.read_text(), file.name


def test_a_folder_that_will_be_uploaded_names_the_place(tmp_path):
    convert(tmp_path / "out", repo_id="me/salmonn")
    assert (
        json.loads((tmp_path / "out" / "adapter_config.json").read_text())["base_model_name_or_path"] == "me/salmonn"
    )
    assert "from_pretrained('me/salmonn'" in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(ValueError, match="`repo_id` must be a Hub id, USER/NAME, and no folder, got 'salmonn'"):
        convert(tmp_path / "other", repo_id="salmonn")


def test_answers(converted, model):
    processor = SalmonnProcessor.from_pretrained(converted)
    content = [{"type": "audio", "audio": torch.linspace(-0.5, 0.5, 16000).numpy()}, {"type": "text", "text": "What?"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        add_generation_prompt=True,
        return_tensors="pt",
    )
    assert (inputs["input_ids"] == VOCABULARY).sum() == 88
    with torch.no_grad():
        assert model(**inputs).logits[..., :VOCABULARY].isfinite().all()


def test_dtype(tmp_path):
    folder = convert(tmp_path / "model", dtype="bfloat16")
    weights = load_file(folder / "model.safetensors")
    names = [name for name, tensor in weights.items() if tensor.dtype != torch.bfloat16]
    assert all("fingerprint" in name for name in names), names


def test_settings_given_win_over_the_file(tmp_path, checkpoint):
    checkpoint["config"]["model"].update(lora_alpha=16, second_per_window=0.5, second_stride=0.25)
    changed = save_checkpoint(checkpoint, tmp_path)
    recorded = convert(tmp_path / "recorded", ckpt=changed)
    config = json.loads((recorded / "config.json").read_text())
    assert (config["window_seconds"], config["stride_seconds"]) == (0.5, 0.25)
    assert json.loads((recorded / "adapter_config.json").read_text())["lora_alpha"] == 16
    given = convert(tmp_path / "given", ckpt=changed, lora_alpha=8, window_seconds="none")
    assert json.loads((given / "config.json").read_text())["window_seconds"] is None
    assert json.loads((given / "adapter_config.json").read_text())["lora_alpha"] == 8


def test_file_without_settings_or_lora(tmp_path, checkpoint):
    del checkpoint["config"]
    checkpoint["model"] = {name: tensor for name, tensor in checkpoint["model"].items() if "lora_" not in name}
    folder = convert(tmp_path / "model", ckpt=save_checkpoint(checkpoint, tmp_path))
    assert json.loads((folder / "config.json").read_text())["window_seconds"] == 0.333333
    assert not (folder / "adapter_config.json").exists()


# ----------------------------------------------------------------------------------------------------------------------
# Layouts of the sources


@pytest.mark.parametrize("prefix", ["model.encoder.", "encoder.", ""])
@pytest.mark.parametrize("layout", ["safetensors", "bin", "sharded"])
def test_whisper_layouts(tmp_path, prefix, layout):
    weights = load_file(WHISPER / "model.safetensors")
    expected = {n.removeprefix("model.encoder."): t for n, t in weights.items() if n.startswith("model.encoder.")}
    renamed = {prefix + name: tensor for name, tensor in expected.items()}
    if prefix:
        renamed[prefix.replace("encoder", "decoder") + "layer_norm.weight"] = torch.ones(64)
    folder = copy_folder(WHISPER, tmp_path / "whisper")
    (folder / "model.safetensors").unlink()
    write_weights(folder, renamed, layout)
    part = read_whisper(folder)
    assert part.state.keys() == expected.keys()
    assert all(torch.equal(part.state[name], expected[name]) for name in expected)


def write_weights(folder, weights, layout):
    if layout == "safetensors":
        save_file(weights, folder / "model.safetensors")
    elif layout == "bin":
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        names, weight_map = sorted(weights), {}
        for index, part in enumerate((names[::2], names[1::2])):
            shard = f"pytorch_model-{index + 1:05}-of-00002.bin"
            torch.save({name: weights[name] for name in part}, folder / shard)
            weight_map |= dict.fromkeys(part, shard)
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_llm_in_shards_gives_the_same_model(tmp_path, converted):
    folder = copy_folder(LLM, tmp_path / "llama")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    write_weights(folder, weights, "sharded")
    other = load_file(convert(tmp_path / "model", llm=folder) / "model.safetensors")
    expected = load_file(converted / "model.safetensors")
    assert all(torch.equal(other[name], expected[name]) for name in expected)


def test_converted_beats_folder_gives_the_same_model(tmp_path, converted):
    from conversion_salmonn.convert_beats import convert_beats

    other = load_file(
        convert(tmp_path / "model", beats=convert_beats(BEATS, tmp_path / "beats")) / "model.safetensors"
    )
    expected = load_file(converted / "model.safetensors")
    assert all(torch.equal(other[name], expected[name]) for name in expected)


# ----------------------------------------------------------------------------------------------------------------------
# What is refused, and leaves nothing behind


def refuse(tmp_path, message, **changes):
    output = tmp_path / "new" / "model"
    with pytest.raises(ValueError, match=message):
        convert(output, **changes)
    assert not output.exists() and not list(output.parent.iterdir())


def test_unknown_tensor(tmp_path, checkpoint):
    checkpoint["model"]["speech_Qformer.bert.pooler.weight"] = torch.ones(2)
    refuse(tmp_path, "speech_Qformer.bert.pooler.weight", ckpt=save_checkpoint(checkpoint, tmp_path))


@pytest.mark.parametrize(
    "name",
    [
        "speech_query_tokens",
        "ln_speech.weight",
        "ln_audio.bias",
        "speech_llama_proj.bias",
        "speech_Qformer.bert.encoder.layer.1.output_query.dense.weight",
        "llama_model.base_model.model.model.layers.1.self_attn.v_proj.lora_B.default.weight",
    ],
)
def test_missing_tensor(tmp_path, checkpoint, name):
    del checkpoint["model"][name]
    ours = next(re.sub(old, new, name) for old, new in RENAMED if re.search(old, name))
    refuse(tmp_path, re.escape(ours), ckpt=save_checkpoint(checkpoint, tmp_path))


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.99])
def test_truncated_checkpoint(tmp_path, keep):
    data = CKPT.read_bytes()
    broken = tmp_path / "broken.pth"
    broken.write_bytes(data[: keep if keep in (0, 100) else int(len(data) * keep)])
    refuse(tmp_path, "broken.pth cannot be read", ckpt=broken)


def test_checkpoint_with_code_is_not_run(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "was-run",))

    torch.save({"model": Harmful()}, tmp_path / "harmful.pth")
    refuse(tmp_path, "harmful.pth cannot be read", ckpt=tmp_path / "harmful.pth")
    assert not (tmp_path / "was-run").exists()


def test_no_checkpoint(tmp_path):
    refuse(tmp_path, "absent.pth does not exist", ckpt=tmp_path / "absent.pth")
    torch.save({"weights": {}}, tmp_path / "other.pth")
    refuse(tmp_path, "no SALMONN checkpoint", ckpt=tmp_path / "other.pth")


def test_qformer_heads_must_divide(tmp_path):
    refuse(tmp_path, "`qformer_heads` must divide the width 64 .* got 12", qformer_heads=None)


def test_another_beats(tmp_path):
    refuse(tmp_path, "another BEATs", beats=FIXTURES / "beats" / "BEATs_tiny_ssl.pt")
    refuse(tmp_path, "was trained with a BEATs, got `beats` none", beats=None)


def test_llm_of_other_sizes(tmp_path):
    folder = copy_folder(LLM, tmp_path / "wide", hidden_size=128)
    refuse(tmp_path, r"model.*\(600, 64\) instead of \(600, 128\)|other sizes", llm=folder)
    folder = copy_folder(LLM, tmp_path / "deep", num_hidden_layers=1)
    refuse(tmp_path, r"layers\.1\.", llm=folder)
    folder = copy_folder(LLM, tmp_path / "words", vocab_size=700)
    refuse(tmp_path, r"\(600, 64\) instead of \(700, 64\)", llm=folder)


def write_random_llm(folder, **sizes):
    from transformers import LlamaConfig, LlamaForCausalLM

    copy_folder(LLM, folder)
    settings = {"vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    LlamaForCausalLM(LlamaConfig(**{**settings, "num_attention_heads": 4, **sizes})).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"hidden_size": 32}, "`llm` .* has width 32, .* trained with 64"),
        ({"num_hidden_layers": 3}, "`llm` .* number of layers 3, .* trained with 2"),
        ({"num_attention_heads": 8}, "`llm` .* attention head size 8, .* trained with 16"),
        ({"vocab_size": 590}, "tokenizer has 600 tokens, but the model only 590"),
    ],
)
def test_another_llm(tmp_path, sizes, message):
    refuse(tmp_path, message, llm=write_random_llm(tmp_path / "llm", **sizes))


def test_another_whisper(tmp_path):
    from transformers import WhisperConfig, WhisperModel

    sizes = {"encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "vocab_size": 20}
    decoder = {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 32, "pad_token_id": 0}
    config = WhisperConfig(d_model=32, max_target_positions=8, **sizes, **decoder)
    WhisperModel(config).save_pretrained(tmp_path / "whisper")
    refuse(tmp_path, "`whisper` .* has width 32, .* trained with 64", whisper=tmp_path / "whisper")
    refuse(tmp_path, "`whisper` must be a Whisper model, .*'llama'", whisper=LLM)


def test_sources_that_are_not_there(tmp_path):
    refuse(tmp_path, "`whisper` must be a folder or the id", whisper=tmp_path / "absent")
    empty = tmp_path / "empty"
    empty.mkdir()
    refuse(tmp_path, "`llm` .* no configuration", llm=empty)
    shutil.copy(LLM / "config.json", empty)
    refuse(tmp_path, "has no weights", llm=empty)


def test_unknown_tensor_in_a_part(tmp_path):
    folder = copy_folder(LLM, tmp_path / "llama")
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"model.layers.0.extra.weight": torch.ones(2)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.layers\.0\.extra\.weight"):
        read_llm(folder)


def test_truncated_safetensors(tmp_path):
    folder = copy_folder(WHISPER, tmp_path / "whisper")
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    refuse(tmp_path, "model.safetensors cannot be read", whisper=folder)


def test_missing_shard(tmp_path):
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="model-00001-of-00002.safetensors is missing"):
        TensorFolder(tmp_path)


# ----------------------------------------------------------------------------------------------------------------------
# Output folders


def test_output_is_not_replaced_unless_told(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty"), output_folder(tmp_path / "model"):
        pass
    with output_folder(tmp_path / "model", overwrite=True) as folder:
        (folder / "new.txt").write_text("new")
        assert (tmp_path / "model" / "mine.txt").exists()
    assert [file.name for file in (tmp_path / "model").iterdir()] == ["new.txt"]
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interrupted_output_leaves_what_was_there(tmp_path, error):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("mine")
    with pytest.raises(error), output_folder(tmp_path / "model", overwrite=True) as folder:
        (folder / "half.txt").write_text("half")
        raise error
    assert [file.name for file in tmp_path.rglob("*")] == ["model", "mine.txt"]


def test_output_must_not_be_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="must be a folder"), output_folder(tmp_path / "file", overwrite=True):
        pass


def test_old_pickles_are_read_too(tmp_path):
    torch.save({"a": torch.arange(3)}, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    assert torch.equal(read_pickle(tmp_path / "old.bin")["a"], torch.arange(3))
