# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Alignment warm-up: its loss, its targets, and where the connector's outputs lie afterwards."""

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import TEXTS, load_shrunk, save_clips, save_model, small_model, small_processor, tones
from torch import nn

from training_salmonn.alignment import HEAD_FILE, AlignmentHead, AlignmentModel, collect_tokens
from training_salmonn.collator import SalmonnDataCollator
from training_salmonn.run import build_trainer, run_recipe
from training_salmonn.stages import load_stage


@pytest.fixture(scope="module")
def processor():
    return small_processor()


def make_batch(processor, count: int = 4):
    rows = [{"audio": tones(i), "text": TEXTS[i], "task": "asr", "id": str(i)} for i in range(count)]
    return SalmonnDataCollator(processor)(rows)


def make_alignment(processor, **settings) -> AlignmentModel:
    model = small_model(**settings)
    model.add_adapter(model.lora_config())
    return AlignmentModel(model, collect_tokens(processor, TEXTS))


def test_the_vocabulary_is_that_of_the_answers(processor):
    tokens = collect_tokens(processor, [*TEXTS, "", TEXTS[0]])

    words = {"dog", "car", "man", "people", "talk", "hear", "write", "describe"}
    assert {processor.tokenizer.decode([token]).strip() for token in tokens} == words
    assert tokens == sorted(tokens)


def test_loss_is_ctc_against_the_directions_of_the_embeddings(processor):
    """Against a plain computation, clip by clip."""
    alignment, batch = make_alignment(processor), make_batch(processor)
    with torch.no_grad():
        alignment.head.bias.normal_()
        alignment.head.blank.normal_()
    outputs = alignment.eval()(**batch)

    salmonn, head = alignment.salmonn, alignment.head
    ids = collect_tokens(processor, TEXTS)
    table = salmonn.get_input_embeddings().weight[ids]
    directions = nn.functional.normalize(table - table.mean(0), dim=-1)
    embeds = salmonn.get_audio_features(batch["input_features"], batch["input_features_mask"]).pooler_output
    logits = embeds @ torch.cat([directions, head.blank[None]]).T + head.bias
    total, count = 0.0, 0
    for clip, text in zip(logits.log_softmax(-1).view(4, 5, -1), TEXTS):
        target = torch.tensor(
            [ids.index(token) for token in processor.tokenizer(text, add_special_tokens=False).input_ids]
        )
        total += nn.functional.ctc_loss(clip, target, (5,), (len(target),), blank=len(ids), reduction="sum")
        count += len(target)
    torch.testing.assert_close(outputs["loss"], total / count)
    assert outputs["lengths"].tolist() == [5] * 4


def test_no_llm_is_run(processor):
    alignment, batch = make_alignment(processor), make_batch(processor)
    runs = []
    alignment.salmonn.model.language_model.register_forward_pre_hook(lambda *_: runs.append(1))
    alignment(**batch)["loss"].backward()

    assert not runs
    assert alignment.head.bias.grad is not None
    assert alignment.salmonn.model.connector.modules_to_save["default"].projection.weight.grad is not None


def test_greedy_read_out_collapses_repetitions_and_blanks(processor):
    alignment = make_alignment(processor)
    blank = len(alignment.head.token_ids)
    path = torch.tensor([[0, 0, blank, 0, 3], [blank, 2, 2, 1, 1]])
    log_probs = nn.functional.one_hot(path, blank + 1).float()

    tokens = alignment.read(log_probs, torch.tensor([5, 4]))

    expected = [[alignment.head.token_ids[c] for c in row] for row in ([0, 0, 3], [2, 1])]
    assert tokens[0].tolist() == expected[0]
    assert tokens[1].tolist() == [*expected[1], -100]


def test_answers_longer_than_their_clips_teach_nothing_and_are_reported(processor, caplog):
    alignment = make_alignment(processor)
    row = {"audio": tones(0), "text": " ".join(TEXTS[:4]), "task": "asr"}
    outputs = alignment(**SalmonnDataCollator(processor)([row]))

    assert outputs["loss"].item() == 0
    assert "1 of 1 answers have more tokens than their clips have audio tokens" in caplog.text


def test_tokens_that_are_not_scored_are_reported(processor, caplog):
    alignment = AlignmentModel(small_model(), collect_tokens(processor, ["dog"]))
    batch = make_batch(processor, 1)  # dog talk

    assert [len(target) for target in alignment.find_targets(batch["labels"])] == [1]
    assert "1 tokens of an answer are not scored" in caplog.text


@pytest.mark.parametrize("kind", ["qformer", "linear", "cross_attention"])
def test_folding_moves_the_outputs_to_the_token_embeddings(processor, kind):
    alignment, batch = make_alignment(processor, connector_type=kind), make_batch(processor)
    features = {name: batch[name] for name in ("input_features", "input_features_mask", "segment_ids")}
    alignment.eval()
    alignment.head.train()
    alignment(**batch)  # one step measures the outputs
    before = alignment.salmonn.get_audio_features(**features).pooler_output

    scale = alignment.fold()

    after = alignment.salmonn.get_audio_features(**features).pooler_output
    torch.testing.assert_close(after, scale * before + alignment.head.mean)
    distance = (after - alignment.head.mean).norm(dim=-1).mean()
    torch.testing.assert_close(distance, alignment.head.target_norm)


def test_unfolding_takes_folding_back(processor):
    alignment, batch = make_alignment(processor), make_batch(processor)
    alignment.eval()
    alignment.head.train()
    before = alignment(**batch)["log_probs"]

    alignment.unfold(1 / alignment.fold())

    torch.testing.assert_close(alignment(**batch)["log_probs"], before, rtol=1e-4, atol=1e-4)


def test_a_run_unfolds_the_connector_of_an_adapter(tmp_path):
    base, clips = save_model(tmp_path / "base"), save_clips(tmp_path / "clips")
    fields = {"model": base, "train": [str(clips)], "output_dir": tmp_path / "run"}
    biases = []
    for factor in (1.0, 3.0):
        recipe = load_shrunk("alignment", alignment_unfold=factor, **fields)
        alignment = build_trainer(recipe, *load_stage(recipe.stage)).model
        biases.append(alignment._find_last_layer().bias.detach().clone())

    torch.testing.assert_close(biases[1], 3 * (biases[0] - alignment.head.mean))
    with pytest.raises(ValueError, match="`alignment_unfold` must be a finite number above 0, got 0"):
        load_shrunk("alignment", alignment_unfold=0.0, **fields)


def test_folding_needs_training(processor):
    with pytest.raises(ValueError, match="`fold` needs a connector that was trained"):
        make_alignment(processor).fold()
    with pytest.raises(ValueError, match="`token_ids` must hold at least one token"):
        AlignmentModel(small_model(), [])


def test_the_running_norm_is_a_mean(processor):
    head = AlignmentHead(torch.randn(10, 4), [1, 2, 3])
    for norm in (2.0, 4.0):
        head(norm * torch.eye(4))
    assert head.output_norm.item() == pytest.approx(2.0 + 0.05 * 2.0)
    head.eval()(100 * torch.eye(4))
    assert head.output_norm.item() == pytest.approx(2.1)


def test_a_resumed_warm_up_is_the_same(tmp_path):
    """The head and its running norm are part of a checkpoint."""
    base, clips = save_model(tmp_path / "base"), save_clips(tmp_path / "clips")

    def recipe(output_dir, **fields):
        fields = {"model": base, "train": [str(clips)], "max_steps": 4, "disable_tqdm": True} | fields
        fields |= {
            "output_dir": output_dir,
            "save_strategy": "steps",
            "save_steps": 2,
            "per_device_train_batch_size": 8,
        }
        return load_shrunk("alignment", **fields)

    whole = run_recipe(recipe(tmp_path / "whole"))
    (tmp_path / "resumed").mkdir()
    (tmp_path / "whole" / "checkpoint-2").rename(tmp_path / "resumed" / "checkpoint-2")
    resumed = run_recipe(recipe(tmp_path / "resumed"), resume=True)

    files = [folder / "adapter_model.safetensors" for folder in (whole, resumed)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_the_whole_vocabulary_can_be_scored(tmp_path):
    base, clips = save_model(tmp_path / "base"), save_clips(tmp_path / "clips")
    fields = {"model": base, "train": [str(clips)], "output_dir": tmp_path / "run"}
    recipe = load_shrunk("alignment", alignment_vocabulary="all", **fields)
    trainer = build_trainer(recipe, *load_stage(recipe.stage))

    assert len(trainer.model.head.token_ids) == 600


def test_a_warm_up_has_no_answers_that_are_read(tmp_path):
    base, clips = save_model(tmp_path / "base"), save_clips(tmp_path / "clips")
    recipe = load_shrunk("alignment", model=base, train=[str(clips)], output_dir=tmp_path / "run", word_dropout=0.1)
    with pytest.raises(ValueError, match="`word_dropout` is for answers that the LLM reads, .* got 0.1"):
        build_trainer(recipe, *load_stage(recipe.stage))


def test_a_warm_up_goes_on_from_the_head_of_another(tmp_path):
    """From a checkpoint, which has a head, on answers with fewer tokens. The adapter at the end is scaled and has none."""
    base, clips = save_model(tmp_path / "base"), save_clips(tmp_path / "clips")
    fields = {"model": base, "train": [str(clips)], "max_steps": 2, "save_strategy": "steps", "save_steps": 2}
    finished = run_recipe(load_shrunk("alignment", output_dir=tmp_path / "first", **fields))
    checkpoint = tmp_path / "first" / "checkpoint-2"
    recipe = load_shrunk("alignment", output_dir=tmp_path / "no", adapter=checkpoint, alignment_unfold=2.0, **fields)
    with pytest.raises(ValueError, match="`alignment_unfold` must be 1 for the checkpoint of a warm-up, got 2.0"):
        build_trainer(recipe, *load_stage(recipe.stage))
    assert not (finished / HEAD_FILE).is_file()

    recipe = load_shrunk("alignment", output_dir=tmp_path / "second", adapter=str(checkpoint), **fields)
    trainer = build_trainer(recipe, *load_stage(recipe.stage))
    saved, head = load_file(checkpoint / HEAD_FILE), trainer.model.head
    torch.testing.assert_close(head.state_dict(), saved)
    assert saved["blank"].abs().max() > 0

    table = trainer.model.salmonn.get_input_embeddings().weight
    fewer = AlignmentHead(table, head.token_ids.tolist()[1::2])
    fewer.go_on_from(saved)
    torch.testing.assert_close(fewer.bias.detach(), torch.cat([saved["bias"][:-1][1::2], saved["bias"][-1:]]))
    torch.testing.assert_close(fewer.blank.detach(), saved["blank"])
    with pytest.raises(ValueError, match="head"):
        AlignmentHead(table[:-1], [0, 1]).go_on_from(saved)
