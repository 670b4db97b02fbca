"""
The converted tiny checkpoint against numbers that the released code computed with the same files (float32, CPU).

Greedy ids always agree. Beam ids are compared where Transformers 5 and 4.28, which the released code runs on, score
beams alike: 4.28 counted the start token into the length of a hypothesis.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from conversion_salmonn.convert_salmonn import convert_salmonn
from modeling_salmonn import SalmonnForConditionalGeneration
from processing_salmonn import SalmonnProcessor


FIXTURES = Path(__file__).parent / "fixtures"
EXPECTED = load_file(FIXTURES / "salmonn" / "expected.safetensors")
FACTS = json.loads((FIXTURES / "salmonn" / "expected.json").read_text())
CASES = FACTS["cases"]
TOLERANCES = FACTS["tolerances"]
VOCABULARY = 600  # the LLM's own; the released code adds [PAD], we add the placeholder


def close(actual: torch.Tensor, expected: torch.Tensor, quantity: str):
    torch.testing.assert_close(actual, expected, **TOLERANCES[quantity])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return convert_salmonn(
        ckpt=FIXTURES / "salmonn" / "salmonn_tiny.pth",
        whisper=FIXTURES / "salmonn" / "whisper",
        llm=FIXTURES / "salmonn" / "llama",
        beats=FIXTURES / "beats" / "BEATs_tiny.pt",
        output=tmp_path_factory.mktemp("golden") / "salmonn",
        qformer_heads=4,
    )


@pytest.fixture(scope="module")
def processor(folder) -> SalmonnProcessor:
    return SalmonnProcessor.from_pretrained(folder)


@pytest.fixture(scope="module", params=["eager", "sdpa"])
def model(folder, request) -> SalmonnForConditionalGeneration:
    return SalmonnForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=request.param
    ).eval()


@pytest.fixture(scope="module")
def clips() -> dict[str, np.ndarray]:
    clips = {}
    for part in ("beats", "salmonn"):
        with np.load(FIXTURES / part / "waveforms.npz") as file:
            clips |= {name: file[name] / 2.0**15 for name in file.files}
    return clips


def conversation(clip: np.ndarray, answer: str | None = None) -> list[dict]:
    content = [{"type": "audio", "audio": clip}, {"type": "text", "text": FACTS["prompt"]}]
    messages = [{"role": "user", "content": content}]
    return messages if answer is None else [*messages, {"role": "assistant", "content": answer}]


def prepare(processor, conversations, train: bool, **kwargs):
    return processor.apply_chat_template(
        conversations,
        add_generation_prompt=not train,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"output_labels": train, **kwargs},
    )


@pytest.mark.parametrize("case", CASES)
def test_training_inputs(processor, clips, case):
    inputs = prepare(processor, conversation(clips[case], CASES[case]["target_text"]), train=True)
    prompt = [1, *FACTS["before_ids"], *[processor.audio_token_id] * 88, *FACTS["after_ids"]]
    assert inputs["input_ids"][0].tolist() == prompt + CASES[case]["target_ids"]
    assert torch.equal(inputs["labels"][0], EXPECTED[f"{case}/labels"])
    close(inputs["input_features"][0, :80, ::29], EXPECTED[f"{case}/input_features_slice"], "input_features")


@pytest.mark.parametrize("case", CASES)
def test_forward(model, processor, clips, case):
    inputs = prepare(processor, conversation(clips[case], CASES[case]["target_text"]), train=True)
    with torch.no_grad():
        speech = model.model.speech_encoder(inputs["input_features"][:, :80]).last_hidden_state[0]
        outputs = model(**inputs)
    close(speech[::21], EXPECTED[f"{case}/whisper_out_slice21"], "whisper_out")
    close(outputs.audio_hidden_states, EXPECTED[f"{case}/speech_embeds"], "speech_embeds")
    tail = outputs.logits[0, CASES[case]["prompt_seq_len"] - 1 :, :VOCABULARY]
    close(tail, EXPECTED[f"{case}/logits_tail"][:, :VOCABULARY], "logits")
    assert outputs.loss.item() == pytest.approx(CASES[case]["loss_excl_pad_column"], abs=TOLERANCES["loss"]["atol"])


def test_embeddings_and_qformer(model, processor, clips):
    inputs = prepare(processor, conversation(clips["speech"], CASES["speech"]["target_text"]), train=True)
    embeddings, logits, qformer = [], [], []
    hooks = [
        model.model.language_model.layers[0].register_forward_pre_hook(lambda _, args: embeddings.append(args[0])),
        model.lm_head.register_forward_hook(lambda _, args, output: logits.append(output)),
        model.get_submodule("model.connector.qformer").register_forward_hook(
            lambda _, args, output: qformer.append(output.last_hidden_state)
        ),
    ]
    with torch.no_grad():
        model(**inputs)
    for hook in hooks:
        hook.remove()
    close(embeddings[0][0], EXPECTED["speech/inputs_embeds"], "inputs_embeds")
    close(qformer[0], EXPECTED["speech/debug/qformer_out"], "speech_embeds")
    close(logits[0][0, :96:8, :VOCABULARY], EXPECTED["speech/logits_head"][:, :VOCABULARY], "logits")


@pytest.mark.parametrize("case", ["short", "speech"])
@pytest.mark.parametrize(("name", "scale"), [("half", 0.5), ("off", 0.0)])
def test_lora_turned_down(model, processor, clips, case, name, scale):
    inputs = prepare(processor, conversation(clips[case], CASES[case]["target_text"]), train=True)
    with torch.no_grad(), model._scale_lora(scale):
        outputs = model(**inputs)
    tail = outputs.logits[0, CASES[case]["prompt_seq_len"] - 1 :, :VOCABULARY]
    close(tail, EXPECTED[f"{case}/logits_lora_{name}_tail"][:, :VOCABULARY], "logits")
    expected = CASES[case][f"loss_lora_{name}_excl_pad_column"]
    assert outputs.loss.item() == pytest.approx(expected, abs=TOLERANCES["loss"]["atol"])


def test_batch_of_equally_long_clips(model, processor, clips):
    cases = FACTS["batch_equal"]["wavs"]
    conversations = [conversation(clips[case], CASES[case]["target_text"]) for case in cases]
    inputs = prepare(processor, conversations, train=True, padding_side="right")
    with torch.no_grad():
        outputs = model(**inputs)
    assert torch.equal(inputs["labels"], EXPECTED["batch_equal/labels"])
    assert torch.equal(inputs["attention_mask"], EXPECTED["batch_equal/attention_mask"])
    close(outputs.audio_hidden_states, EXPECTED["batch_equal/speech_embeds"].flatten(0, 1), "speech_embeds")
    start = CASES[cases[0]]["prompt_seq_len"] - 1
    is_real = inputs["attention_mask"][:, start:].bool()
    tail = outputs.logits[:, start:, :VOCABULARY][is_real]
    close(tail, EXPECTED["batch_equal/logits_tail"][..., :VOCABULARY][is_real], "logits")
    expected = FACTS["batch_equal"]["loss_excl_pad_column"]
    assert outputs.loss.item() == pytest.approx(expected, abs=TOLERANCES["loss"]["atol"])


@pytest.mark.parametrize("case", CASES)
def test_greedy_ids(model, processor, clips, case):
    inputs = prepare(processor, conversation(clips[case]), train=False)
    output = model.generate(**inputs, num_beams=1, do_sample=False, max_new_tokens=24)
    assert output[0, inputs["input_ids"].shape[1] :].tolist() == CASES[case]["greedy"]


def test_greedy_ids_of_a_saved_model(folder, processor, clips, tmp_path):
    saved = SalmonnForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    saved.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = SalmonnForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32).eval()
    inputs = prepare(SalmonnProcessor.from_pretrained(tmp_path), conversation(clips["speech"]), train=False)
    output = loaded.generate(**inputs, num_beams=1, do_sample=False, max_new_tokens=24)
    assert output[0, inputs["input_ids"].shape[1] :].tolist() == CASES["speech"]["greedy"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("name", "tokens"), [("beam4", 24), ("beam4_80", 80)])
def test_beam_ids(model, processor, clips, case, name, tokens):
    if name not in CASES[case]:
        pytest.skip("Transformers 5 scores finished beams of this case in another way than 4.28")
    inputs = prepare(processor, conversation(clips[case]), train=False)
    output = model.generate(**inputs, num_beams=4, do_sample=False, max_new_tokens=tokens)
    assert output[0, inputs["input_ids"].shape[1] :].tolist() == CASES[case][name]


def test_rows_of_a_batch_stop_by_themselves(model, processor, clips):
    inputs = prepare(processor, [conversation(clips[case]) for case in CASES], train=False)
    output = model.generate(**inputs, num_beams=1, do_sample=False, max_new_tokens=24)
    answers = output[:, inputs["input_ids"].shape[1] :].tolist()
    for answer, case in zip(answers, CASES.values()):
        assert answer[: len(case["greedy"])] == case["greedy"]
        assert not any(answer[len(case["greedy"]) :])  # padding


def released_name(name: str) -> str:
    """The name that the released code has for a trained parameter of ours."""
    name = name.removeprefix("model.").replace(".modules_to_save.default", "")
    for ours, theirs in (
        ("language_model.", "llama_model.base_model.model.model."),
        ("speech_layer_norm.", "ln_speech."),
        ("beats_layer_norm.", "ln_audio."),
        ("connector.query_tokens", "speech_query_tokens"),
        ("connector.projection.", "speech_llama_proj."),
        ("connector.qformer.layernorm.", "speech_Qformer.bert.embeddings.LayerNorm."),
        ("connector.qformer.", "speech_Qformer.bert."),
        ("attention.attention.", "attention.self."),
    ):
        name = name.replace(ours, theirs)
    return name


def test_gradients(folder, processor, clips):
    model = SalmonnForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    # The released code draws [PAD] at random at every load, and its score is part of the loss: the placeholder, which has
    # no score, makes room for it.
    model.resize_token_embeddings(VOCABULARY + 2, mean_resizing=False)
    model.lm_head.weight.data[VOCABULARY] = EXPECTED["llama/pad_lm_head_row"]
    model.config.audio_token_id = VOCABULARY + 1
    trained = {name: p for name, p in model.named_parameters() if "lora_" in name or "modules_to_save" in name}
    for parameter in trained.values():
        parameter.requires_grad_(True)
    inputs = prepare(processor, conversation(clips["speech"], CASES["speech"]["target_text"]), True)
    inputs["input_ids"][inputs["input_ids"] == VOCABULARY] = VOCABULARY + 1
    loss = model(**inputs).loss
    assert loss.item() == pytest.approx(FACTS["grad_case"]["loss"], abs=TOLERANCES["loss"]["atol"])
    loss.backward()

    gradients = {released_name(name): parameter.grad for name, parameter in trained.items()}
    norms = FACTS["grad_case"]["grad_norm"]
    assert gradients.keys() == norms.keys()
    for name, norm in norms.items():
        assert gradients[name].norm().item() == pytest.approx(norm, rel=2e-3, abs=1e-5), name
        if f"grad/{name}" in EXPECTED:
            close(gradients[name], EXPECTED[f"grad/{name}"], "grad")


def test_one_window_over_the_whole_clip(folder, processor, clips, tmp_path):
    """The released code's `window_level_Qformer=False`."""
    model = SalmonnForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, window_seconds=None).eval()
    inputs = processor.feature_extractor(clips["speech"], sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        embeddings = model.get_audio_features(**inputs).pooler_output
    close(embeddings, EXPECTED["no_window/speech_embeds"], "speech_embeds")
