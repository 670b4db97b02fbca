# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Collation: what is learnt, what is masked, what is joined, and that chance can be repeated."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from transformers import AddedToken, Trainer, TrainingArguments

from data_salmonn.datasets import load_training_data
from data_salmonn.prompts import PromptBank
from tiny_salmonn import noise, tiny_config, tiny_model, tiny_processor
from training_salmonn.collator import EpochCallback, SalmonnDataCollator


@pytest.fixture(scope="module")
def processor():
    return tiny_processor(tiny_config(segment_seconds=30))


def row(number: int, text: str | None = None, seconds: float = 1.0, **columns) -> dict:
    clip = {"array": noise(seconds, seed=number), "sampling_rate": 16000}
    return {"audio": clip, "text": text or f"text {number}", "task": "asr", "id": f"row-{number}", **columns}


def texts(processor, batch) -> list[str]:
    """What the batch asks and answers, without audio and padding."""
    decoded = processor.tokenizer.batch_decode(
        [
            ids[mask.bool() & (ids != processor.audio_token_id)]
            for ids, mask in zip(batch["input_ids"], batch["attention_mask"])
        ]
    )
    return [text.removeprefix("<s>").strip() for text in decoded]


def answers(processor, batch) -> list[str]:
    """What the batch teaches, with the end token."""
    return [processor.tokenizer.decode(labels[labels != -100]).strip() for labels in batch["labels"]]


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_only_answers_and_their_end_tokens_are_learnt(processor, padding_side):
    rows = [
        row(1, "short"),
        row(2, "a much longer answer than the other one", task="QA", question="And what is that?"),
    ]
    batch = SalmonnDataCollator(processor, padding_side=padding_side)(rows)
    assert set(batch) == {
        "input_ids",
        "attention_mask",
        "labels",
        "input_features",
        "input_features_mask",
        "segment_ids",
    }
    assert answers(processor, batch) == ["short</s>", "a much longer answer than the other one</s>"]

    labels, mask = batch["labels"], batch["attention_mask"].bool()
    assert labels.shape == mask.shape == batch["input_ids"].shape
    assert not mask.all() and (labels[~mask] == -100).all()  # there is padding, and nothing is learnt of it
    assert torch.equal(labels[labels != -100], batch["input_ids"][labels != -100])
    short = mask[0].tolist()
    assert short == sorted(short, reverse=padding_side == "right")
    for ids, one_mask, one_labels in zip(batch["input_ids"], mask, labels):
        learnt = (one_labels[one_mask] != -100).tolist()
        assert learnt == sorted(learnt) and not learnt[0]  # the prompt, then the answer to its very end
        assert ids[one_mask][-1] == processor.tokenizer.eos_token_id == one_labels[one_mask][-1]
        assert (ids == processor.audio_token_id).sum() == 88


def test_padding_does_not_change_the_loss(processor):
    model = tiny_model(tiny_config(segment_seconds=30))
    rows = [row(1, "short"), row(2, "a much longer answer")]

    def token_losses(batch) -> list[torch.Tensor]:
        with torch.no_grad():
            logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
        losses = torch.nn.functional.cross_entropy(
            logits[:, :-1].transpose(1, 2), batch["labels"][:, 1:], reduction="none", ignore_index=-100
        )
        return [one[labels != -100] for one, labels in zip(losses, batch["labels"][:, 1:])]

    alone = [token_losses(SalmonnDataCollator(processor)([one]))[0] for one in rows]
    for padding_side in ("left", "right"):
        together = token_losses(SalmonnDataCollator(processor, padding_side=padding_side, pad_to_multiple_of=64)(rows))
        for one, other in zip(together, alone):
            torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-4)


def test_texts_can_be_padded_to_a_multiple(processor):
    length = SalmonnDataCollator(processor)([row(1)])["input_ids"].shape[1]
    batch = SalmonnDataCollator(processor, pad_to_multiple_of=64)([row(1)])
    assert length % 64 and batch["input_ids"].shape == batch["labels"].shape == (1, length // 64 * 64 + 64)


def test_prompts_are_drawn_by_row_and_epoch_only(processor):
    collator = SalmonnDataCollator(processor, seed=3)
    rows = [row(number) for number in range(6)]
    asked = texts(processor, collator(rows))
    assert len(set(asked)) > 2
    # not by the batch, what came before, the process, or a copy
    assert texts(processor, collator(rows[::-1])) == asked[::-1]
    assert [texts(processor, collator([one]))[0] for one in rows] == asked
    assert texts(processor, copy.deepcopy(collator)(rows)) == asked
    assert texts(processor, SalmonnDataCollator(processor, seed=4)(rows)) != asked
    collator.set_epoch(1)
    later = texts(processor, collator(rows))
    assert later != asked
    collator.set_epoch(0)
    assert texts(processor, collator(rows)) == asked


@pytest.mark.parametrize("persistent_workers", [False, True])
def test_workers_draw_the_same(processor, persistent_workers):
    collator = SalmonnDataCollator(processor, concatenate_probability=0.7)
    rows = [row(number) for number in range(4)]
    expected = []
    for epoch in range(2):
        collator.set_epoch(epoch)
        expected.append([texts(processor, collator(rows[i : i + 2])) for i in (0, 2)])
    assert expected[0] != expected[1]
    loader = torch.utils.data.DataLoader(
        rows, batch_size=2, collate_fn=collator, num_workers=2, persistent_workers=persistent_workers
    )
    for epoch in range(2):
        collator.set_epoch(epoch)
        assert [texts(processor, batch) for batch in loader] == expected[epoch]


def test_evaluation_asks_the_test_prompt(processor):
    collator = SalmonnDataCollator(processor, use_test_prompts=True)
    asked = texts(processor, collator([row(1), row(2, task="QA", question="Which colour?")]))
    prompt = PromptBank.load().test_prompt("asr")
    assert asked[0] == f"USER: <Speech> </Speech> {prompt}\nASSISTANT: text 1</s>"
    assert asked[1] == "USER: <Speech> </Speech> Which colour?\nASSISTANT: text 2</s>"


def test_users_prompts_and_languages(processor, tmp_path):
    file = tmp_path / "mine.json"
    file.write_text('{"asr": {"prompts": {"fr": ["Dictée."]}, "test": "Dictée."}}', encoding="utf-8")
    collator = SalmonnDataCollator(processor, PromptBank.load(file))
    asked = texts(processor, collator([row(number, language="fr") for number in range(3)]))
    assert all("Dictée." in text for text in asked)


def test_lists_of_clips_are_joined_with_silence(processor):
    first, second = noise(1.0, seed=1), noise(1.5, seed=2)
    pair = row(1, "yes", task="speaker_verification")
    joined = np.concatenate([first, np.zeros(1600, dtype=np.float32), second])
    collator = SalmonnDataCollator(processor)
    one, other = (collator([{**pair, "audio": audio}]) for audio in ([first, second], joined))
    assert torch.equal(one["input_features"], other["input_features"])
    assert one["input_features_mask"].sum() == 1 + (len(joined) - 400) // 160


def test_long_clips_become_segments(processor):
    batch = SalmonnDataCollator(processor)([row(1, seconds=31), row(2)])
    assert batch["segment_ids"].tolist() == [0, 1, 0]
    assert (batch["input_ids"] == processor.audio_token_id).sum(-1).tolist() == [176, 88]


# ----------------------------------------------------------------------------------------------------------------------
# Random concatenation


def test_concatenation_joins_clips_and_texts(processor):
    rows = [row(number, seconds=1 + number / 10) for number in range(4)]
    # every clip fits, so one is left, unless the length drawn for it is short
    collator = SalmonnDataCollator(processor, concatenate_probability=1.0, concatenate_max_seconds=1000.0)
    batch = collator(rows)
    (answer,) = answers(processor, batch)
    words = answer.removesuffix("</s>").replace("text ", "")
    order = [int(number) for number in words.split()]
    assert sorted(order) == [0, 1, 2, 3] and answer == " ".join(f"text {number}" for number in order) + "</s>"
    clip = np.concatenate([rows[number]["audio"]["array"] for number in order])
    expected = processor.feature_extractor(clip, 16000, return_tensors="pt")
    assert torch.equal(batch["input_features"], expected["input_features"])


def test_concatenation_loses_nothing_and_is_another_one_each_epoch(processor):
    rows = [row(number, seconds=2.0) for number in range(8)]
    collator = SalmonnDataCollator(processor, concatenate_probability=0.5, concatenate_max_seconds=7.0)
    seen, longest = set(), 0
    for epoch in range(6):
        collator.set_epoch(epoch)
        learnt = [answer.removesuffix("</s>") for answer in answers(processor, collator(rows))]
        numbers = sorted(int(number) for answer in learnt for number in answer.replace("text ", "").split())
        assert numbers == list(range(8))  # each row once
        longest = max(longest, *(answer.count("text") for answer in learnt))
        assert longest <= 3  # 7 s hold three clips of 2 s
        seen.add(tuple(learnt))
        if epoch == 0:  # and the same one each time
            assert learnt == [answer.removesuffix("</s>") for answer in answers(processor, collator(rows))]
    assert len(seen) == 6 and longest == 3


def test_only_speech_recognition_is_concatenated(processor):
    others = [
        row(1, task="audiocaption"),
        row(2, task="QA", question="Who?"),
        row(3, question="What does the second voice say?"),  # an `asr` row that asks something of its own
        row(4, task="asr_zh"),
    ]
    collator = SalmonnDataCollator(processor, concatenate_probability=1.0, concatenate_max_seconds=1000.0)
    batch = collator([*others, row(5), row(6)])
    learnt = [answer.removesuffix("</s>") for answer in answers(processor, batch)]
    assert learnt[:4] == ["text 1", "text 2", "text 3", "text 4"]
    assert len(learnt) == 5 and set(learnt[4].split()) == {"text", "5", "6"}


def test_concatenation_heeds_languages_and_limits(processor, tmp_path):
    file = tmp_path / "mine.json"
    file.write_text('{"asr": {"prompts": {"zh": ["听写"]}, "test": "听写"}}', encoding="utf-8")
    options = {"concatenate_probability": 1.0, "concatenate_max_seconds": 1000.0}
    collator = SalmonnDataCollator(processor, PromptBank.load(file), **options)
    batch = collator([row(1, "one", language="en"), row(2, "two", language="zh"), row(3, "three", language="zh")])
    assert min(answers(processor, batch)) == "one</s>"
    assert max(answers(processor, batch)) in ("threetwo</s>", "twothree</s>")  # Chinese knows no spaces
    # a text that joining made longer than the limit would be a row that is refused
    limit = len(processor.tokenizer("text 1", add_special_tokens=False).input_ids) + 2
    batch = SalmonnDataCollator(processor, max_text_tokens=limit, **options)([row(1), row(2)])
    assert len(batch["input_ids"]) == 2


def test_without_probability_nothing_is_concatenated(processor):
    assert len(SalmonnDataCollator(processor)([row(1), row(2)])["input_ids"]) == 2


# ----------------------------------------------------------------------------------------------------------------------
# Bad rows


def test_spec_augment_masks_mel_rows_of_some_clips(processor):
    bins = processor.feature_extractor.feature_size
    rows = [row(number, seconds=1.0 + 0.2 * number) for number in range(12)]
    plain = SalmonnDataCollator(processor)(rows)
    masked = SalmonnDataCollator(processor, spec_augment=0.5)(rows)
    before, after = plain["input_features"], masked["input_features"]

    assert torch.equal(before[:, bins:], after[:, bins:])  # BEATs' filter banks
    padding = plain["input_features_mask"][:, None] == 0
    assert torch.equal(before.masked_select(padding), after.masked_select(padding))
    changed = (before != after).flatten(1).any(1)
    assert 2 <= changed.sum() <= 10
    for clip in changed.nonzero().flatten().tolist():
        frames = int(plain["input_features_mask"][clip].sum())
        was, is_ = before[clip, :bins, :frames], after[clip, :bins, :frames]
        assert 0 < (was != is_).float().mean() < 0.7
        torch.testing.assert_close(is_[was != is_].unique(), was.mean().reshape(1))
    assert all(torch.equal(plain[name], masked[name]) for name in plain if name != "input_features")


def test_spec_augment_depends_on_row_and_epoch_alone(processor):
    rows = [row(number) for number in range(4)]
    collator = SalmonnDataCollator(processor, spec_augment=1.0)
    together = collator(rows)["input_features"]
    alone = torch.cat([collator([one])["input_features"] for one in rows[::-1]]).flip(0)
    torch.testing.assert_close(alone, together)
    collator.set_epoch(1)
    assert not torch.equal(collator(rows)["input_features"], together)


def test_word_dropout_changes_what_is_read_of_answers_alone(processor):
    processor = copy.deepcopy(processor)
    processor.tokenizer.add_tokens([AddedToken(f"<mark {number}>", special=True) for number in range(600)])
    rows = [row(number, "a word and another word " * 20) for number in range(3)]
    plain, dropped = (SalmonnDataCollator(processor, word_dropout=share)(rows) for share in (0.0, 0.4))
    assert torch.equal(plain["labels"], dropped["labels"])
    is_word = (plain["labels"] != -100) & (plain["labels"] != processor.tokenizer.eos_token_id)
    changed = plain["input_ids"] != dropped["input_ids"]
    assert not changed[~is_word].any()
    assert 0.3 < changed[is_word].float().mean() < 0.5
    added = processor.tokenizer.added_tokens_decoder.items()
    markers = {*processor.tokenizer.all_special_ids, *(number for number, token in added if token.special)}
    assert len(markers) > 600 and processor.audio_token_id in markers
    assert not markers & {*dropped["input_ids"][changed].tolist()}
    assert all(torch.equal(plain[name], dropped[name]) for name in plain if name != "input_ids")


def test_word_dropout_depends_on_row_and_epoch_alone(processor):
    rows = [row(number, "a word and another word " * 3) for number in range(4)]
    collator = SalmonnDataCollator(processor, word_dropout=0.5, pad_to_multiple_of=256)
    together = collator(rows)["input_ids"]
    assert torch.equal(torch.cat([collator([one])["input_ids"] for one in rows[::-1]]).flip(0), together)
    collator.set_epoch(1)
    assert not torch.equal(collator(rows)["input_ids"], together)


def test_long_texts_are_refused_not_cut(processor):
    text = "word " * 40
    tokens = len(processor.tokenizer(text, add_special_tokens=False).input_ids) + 1
    batch = SalmonnDataCollator(processor, max_text_tokens=tokens)([row(1, text)])
    assert answers(processor, batch)[0].count("word") == 40
    with pytest.raises(ValueError, match=rf"row-1, .*at most {tokens - 1} tokens with its end token, got {tokens}"):
        SalmonnDataCollator(processor, max_text_tokens=tokens - 1)([row(2), row(1, text)])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": " "}, "`text` is empty"),
        ({"text": None}, "`text` must be a string, got nothing"),
        ({"text": "a</s>b"}, "no special tokens, got"),
        ({"task": "dance"}, "'dance' is not in the prompt bank"),
        ({"task": None}, "must be a `question` where there is no `task`"),
        ({"task": "QA"}, "needs a `question`"),
        ({"language": "fr"}, "'fr' has no prompt"),
        ({"audio": "gone.wav"}, "no such file"),
        ({"audio": None}, "got NoneType"),
        ({"audio": {"array": np.zeros(0), "sampling_rate": 16000}}, "at least one"),
    ],
)
def test_bad_rows_are_refused_by_name(processor, columns, message):
    with pytest.raises(ValueError, match=rf"row-7.*{message}"):
        SalmonnDataCollator(processor)([row(1), {**row(7, "fine"), **columns}])
    with pytest.raises(ValueError, match=rf"row 1 of the batch.*{message}"):
        SalmonnDataCollator(processor)([row(1), {**row(7, "fine"), "id": None, **columns}])


def test_settings_are_checked(processor):
    for options in (
        {"concatenate_probability": 1.5},
        {"concatenate_max_seconds": 0},
        {"spec_augment": -0.1},
        {"word_dropout": 1.1},
        {"padding_side": "middle"},
    ):
        with pytest.raises(ValueError, match=next(iter(options))):
            SalmonnDataCollator(processor, **options)
    with pytest.raises(ValueError, match="at least one row"):
        SalmonnDataCollator(processor)([])


# ----------------------------------------------------------------------------------------------------------------------
# With Trainer


def test_epochs_are_counted_also_where_a_run_goes_on(processor):
    collator = SalmonnDataCollator(processor)
    callback, loader = EpochCallback(collator), torch.utils.data.DataLoader(range(4))
    for begun, expected in ((None, 0), (0.0, 0), (0.9999999999, 1), (2.5, 2), (3.0, 3)):
        callback.on_train_begin(None, SimpleNamespace(epoch=begun), None)
        for passed in range(2):  # the rest of an epoch, then the next one
            callback.on_epoch_begin(None, SimpleNamespace(epoch=(begun or 0) + passed), None, train_dataloader=loader)
            assert collator.epoch == expected + passed


class NoModel(torch.nn.Linear):
    def forward(self, **batch):
        return {"loss": self.weight.sum() * batch["labels"].ne(-100).sum()}


def make_trainer(collator, collate, dataset, output_dir, **arguments) -> Trainer:
    arguments = TrainingArguments(
        output_dir=str(output_dir),
        per_device_train_batch_size=4,
        remove_unused_columns=False,
        learning_rate=0.0,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        **arguments,
    )
    callbacks = [EpochCallback(collator)]
    return Trainer(
        model=NoModel(1, 1), args=arguments, data_collator=collate, train_dataset=dataset, callbacks=callbacks
    )


def save_rows(folder, count: int):
    """A data set of clips of 1 to 4 s."""
    for seconds in range(1, 5):
        soundfile.write(folder / f"{seconds}.wav", noise(seconds), 16000)
    lines = "".join(f"{1 + number % 4}.wav,text {number},asr\n" for number in range(count))
    (folder / "metadata.csv").write_text("file_name,text,task\n" + lines, encoding="utf-8")
    return folder


def test_passes_over_a_stream_are_its_epochs(processor, tmp_path):
    collator, seen = SalmonnDataCollator(processor), []

    def collate(rows):
        seen.append(collator.epoch)
        return collator(rows)

    dataset = load_training_data(save_rows(tmp_path, 8), streaming=True)
    trainer = make_trainer(collator, collate, dataset, tmp_path / "out", max_steps=7)
    trainer.train()
    assert seen[:6] == [0, 0, 1, 1, 2, 2]  # and what was fetched ahead


def test_trainer_groups_by_length_and_counts_epochs(processor, tmp_path):
    dataset = load_training_data(save_rows(tmp_path, 32))
    collator = SalmonnDataCollator(processor)
    seen: list[tuple[int, list[float]]] = []

    def collate(rows):
        seen.append((collator.epoch, [round(row["length"]) for row in rows]))
        return collator(rows)

    strategy = {"num_train_epochs": 2, "train_sampling_strategy": "group_by_length"}
    trainer = make_trainer(collator, collate, dataset, tmp_path / "out", **strategy)
    trainer.train()
    assert [epoch for epoch, _ in seen] == [0] * 8 + [1] * 8
    for epoch in range(2):
        lengths = [batch for one, batch in seen if one == epoch]
        assert lengths[0][0] == 4 and sum(map(sum, lengths)) == 80  # the longest first, each row once
        spread = sum(max(batch) - min(batch) for batch in lengths)
        assert spread <= 13  # 18 on average if lengths come at random
