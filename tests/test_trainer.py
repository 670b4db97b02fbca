# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The trainer: the model's own loss, frozen parts in eval mode, whole checkpoints, equal resumption, NaN named."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from tiny_training import TEXTS, load_shrunk, save_clips, save_model, small_model, small_processor, tones

from conversion_salmonn.loading import load_with_adapter
from data_salmonn.error_rates import word_error_rate
from data_salmonn.manifests import ManifestError
from evaluation_salmonn.models import load_model
from tiny_salmonn import ask, question
from training_salmonn import callbacks
from training_salmonn import trainer as trainer_module
from training_salmonn.collator import SalmonnDataCollator
from training_salmonn.recipes import SalmonnTrainingArguments
from training_salmonn.run import build_trainer, load_sources, run_recipe
from training_salmonn.stages import find_trained_modules, freeze, keep_frozen_in_eval, load_stage
from training_salmonn.trainer import NonFiniteError, SalmonnTrainer, cut_answers


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Drawing curves takes longer than the steps. `test_recipes.py` looks at a drawing."""
    monkeypatch.setattr(callbacks, "plot_curves", lambda *arguments, **options: False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base model and clips on disk."""
    folder = tmp_path_factory.mktemp("trainer")
    # dropout, so that a run that is resumed must find its random state
    save_model(folder / "base", qformer_config={"hidden_size": 48, "num_attention_heads": 4, "intermediate_size": 96})
    save_clips(folder / "clips")
    return folder


def make_recipe(folder, output_dir, **fields):
    defaults = {
        "model": folder / "base",
        "train": [str(folder / "clips" / "asr.jsonl")],
        "output_dir": output_dir,
        "disable_tqdm": True,
        "per_device_train_batch_size": 4,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "max_steps": 6,
        "lora_dropout": 0.1,
    }
    return load_shrunk("pretrain", **defaults | fields)


def make_trainer(folder, output_dir, **fields) -> SalmonnTrainer:
    recipe = make_recipe(folder, output_dir, **fields)
    return build_trainer(recipe, *load_stage(recipe.stage))


def make_rows(count: int = 4) -> Dataset:
    rows = {"audio": [tones(i) for i in range(count)], "text": TEXTS[:count], "task": ["asr"] * count}
    return Dataset.from_dict(rows | {"id": [f"clip {i}" for i in range(count)]})


class PlainCollator:
    """Batches of `make_rows`, with nothing drawn at random."""

    def __init__(self, processor):
        self.processor = processor

    def __call__(self, rows):
        conversations = [question(np.array(row["audio"], "float32"), answer=row["text"]) for row in rows]
        return self.processor.apply_chat_template(
            conversations,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"output_labels": True},
        )


def find_losses(folder) -> dict[int, float]:
    return dict(map(tuple, json.loads((folder / "curves.json").read_text())["loss"]))


# ----------------------------------------------------------------------------------------------------------------------
# Loss and modes


def test_prompts_are_left_out_of_the_head_and_the_loss_stays(folder, tmp_path):
    trainer = make_trainer(folder, tmp_path, lora_dropout=0.0)
    model = trainer.model.eval()
    batch = dict(next(iter(trainer.get_train_dataloader())))
    batch.pop("sample_ids")
    scored = trainer.find_scored_positions(batch)
    losses, gradients = [], []
    for inputs in (batch, batch | scored):
        model.zero_grad()
        output = model(**inputs)
        output.loss.backward()
        losses.append(output.loss.detach())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))

    assert scored["logits_to_keep"] < batch["labels"].shape[1]
    assert (batch["labels"][:, : -scored["logits_to_keep"]] == -100).all()
    torch.testing.assert_close(losses[1], losses[0], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-6, rtol=1e-5)


def test_lora_learns_at_its_own_rate(folder, tmp_path):
    trainer = make_trainer(folder, tmp_path, learning_rate=1e-4, lora_learning_rate=1e-3)

    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in trainer.create_optimizer().param_groups for p in group["params"]}
    assert {rate for name, rate in rates.items() if ".lora_" in name} == {1e-3}
    assert {rate for name, rate in rates.items() if ".lora_" not in name} == {1e-4}
    assert len(rates) == sum(parameter.requires_grad for parameter in trainer.model.parameters())
    assert trainer.create_optimizer() is trainer.optimizer
    assert sum(len(group["params"]) for group in trainer.optimizer.param_groups) == len(rates)


def make_plain_trainer(tmp_path, model, rows=None, collator=None, **settings):
    model.add_adapter(model.lora_config(lora_dropout=0.0))
    freeze(model, ["connector", "norms", "lora"])
    settings = {"max_steps": 1, "per_device_train_batch_size": 4, "logging_steps": 1, "report_to": "none"} | settings
    args = SalmonnTrainingArguments(output_dir=str(tmp_path), disable_tqdm=True, save_strategy="no", **settings)
    collator = collator or PlainCollator(small_processor())
    return SalmonnTrainer(model, args, data_collator=collator, train_dataset=rows or make_rows())


def test_loss_and_gradients_are_the_models(tmp_path):
    """One step of Trainer, over two accumulated batches, is one of the model on all rows."""
    torch.manual_seed(1)
    model = small_model()
    trainer = make_plain_trainer(
        tmp_path, model, per_device_train_batch_size=2, gradient_accumulation_steps=2, max_grad_norm=0, optim="sgd"
    )
    gradients = {}
    trainer.model.model.connector.modules_to_save["default"].query_tokens.register_hook(
        lambda gradient: gradients.setdefault("sum", torch.zeros_like(gradient)).add_(gradient)
    )
    batch = PlainCollator(small_processor())(list(make_rows()))
    model.train()
    keep_frozen_in_eval(model, find_trained_modules(model))
    expected = model(**batch).loss
    [expected_gradient] = torch.autograd.grad(
        expected, [model.model.connector.modules_to_save["default"].query_tokens]
    )
    gradients.clear()

    trainer.train()

    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(gradients["sum"], expected_gradient, rtol=1e-4, atol=1e-7)


def test_labels_are_the_answers_and_their_end_tokens():
    processor = small_processor()
    rows = [{"audio": tones(i), "text": text, "task": "asr"} for i, text in enumerate(TEXTS)]
    batch = SalmonnDataCollator(processor)(rows)

    for labels, text in zip(batch["labels"], TEXTS):
        assert processor.decode(labels[labels >= 0]).strip() == text + processor.tokenizer.eos_token


def test_frozen_parts_stay_in_eval_mode_and_unchanged(folder, tmp_path):
    trainer = make_trainer(folder, tmp_path, max_steps=4)
    model, seen = trainer.model, []
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    def look(module, *_):
        encoders = [*model.model.speech_encoder.modules(), *model.model.beats.modules()]
        connector = model.model.connector.modules_to_save["default"]
        lora = model.model.language_model.layers[0].self_attn.q_proj
        seen.append(
            {
                "encoders": any(module.training for module in encoders),
                "llm": model.model.language_model.layers[0].mlp.training,
                "connector": all(module.training for module in connector.modules()),
                "lora_dropout": lora.lora_dropout["default"].training,
            }
        )

    model.model.language_model.register_forward_pre_hook(look)
    outputs = []
    model.model.speech_encoder.register_forward_hook(lambda module, _, output: outputs.append(output[0].requires_grad))
    trainer.train()

    assert seen == [{"encoders": False, "llm": False, "connector": True, "lora_dropout": True}] * 4
    assert len(outputs) >= 4 and not any(outputs)  # no graph is kept of what is frozen
    for name, parameter in model.named_parameters():
        is_trained = "modules_to_save" in name or "lora_" in name
        if is_trained and ("attention.attention.query" in name or "attention.attention.key" in name):
            continue  # a single query attends to itself, whatever these are
        assert torch.equal(parameter, before[name]) != is_trained, name


def test_only_the_named_parts_are_trained(folder, tmp_path):
    recipe = make_recipe(folder, tmp_path, trained=["connector"])
    model, _ = load_stage(recipe.stage)

    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained and all(".connector.modules_to_save." in name for name in trained)


def test_gradient_checkpointing_changes_nothing_but_memory(folder, tmp_path):
    losses = []
    for name, checkpointing in (("without", False), ("with", True)):
        run_recipe(make_recipe(folder, tmp_path / name, max_steps=2, gradient_checkpointing=checkpointing))
        losses.append(find_losses(tmp_path / name))

    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_bfloat16_trains_float32_weights(folder, tmp_path):
    trainer = make_trainer(folder, tmp_path, max_steps=2, bf16=True, use_cpu=True, model_dtype="bfloat16")
    trainer.train()

    dtypes = {parameter.dtype for parameter in trainer.model.parameters() if parameter.requires_grad}
    assert dtypes == {torch.float32}
    assert trainer.model.lm_head.weight.dtype == torch.bfloat16
    assert all(np.isfinite(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry)


def test_bad_rows_of_all_sources_are_found_before_a_model_loads(folder, tmp_path):
    rows = {"train": {"path": "missing.wav", "text": "x", "task": "asr"}, "eval": {"path": "also.wav", "text": ""}}
    for name, row in rows.items():
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row))
    sources = {name: [str(tmp_path / f"{name}.jsonl")] for name in rows}
    recipe = make_recipe(folder, tmp_path / "out", model=tmp_path / "there is no model", **sources)
    with pytest.raises(ManifestError) as error:
        run_recipe(recipe)
    assert {Path(problem.file).name for problem in error.value.problems} == {"train.jsonl", "eval.jsonl"}
    assert not (tmp_path / "out").exists()


# ----------------------------------------------------------------------------------------------------------------------
# Checkpoints


def test_a_resumed_run_gives_the_same_losses(folder, tmp_path):
    """To the last bit, over the end of an epoch, with dropout and prompts drawn at random."""
    run_recipe(make_recipe(folder, tmp_path / "whole", save_strategy="steps", save_steps=3))
    (tmp_path / "resumed").mkdir()
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "resumed" / "checkpoint-3")

    run_recipe(make_recipe(folder, tmp_path / "resumed"), resume=True)

    assert find_losses(tmp_path / "resumed") == find_losses(tmp_path / "whole")
    adapters = [(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("whole", "resumed")]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()


def test_a_new_run_does_not_mix_with_an_old_one(folder, tmp_path):
    run_recipe(make_recipe(folder, tmp_path, max_steps=1, save_strategy="steps", save_steps=1))

    with pytest.raises(ValueError, match="`output_dir` .* holds checkpoint-1"):
        run_recipe(make_recipe(folder, tmp_path))
    with pytest.raises(ValueError, match="`resume` must be the folder of a checkpoint, got .*checkpoint-7"):
        run_recipe(make_recipe(folder, tmp_path), resume=str(tmp_path / "checkpoint-7"))


def test_checkpoints_hold_the_trained_part_only(folder, tmp_path):
    run_recipe(make_recipe(folder, tmp_path, max_steps=2, save_strategy="steps", save_steps=1, save_total_limit=1))

    names = {path.name for path in (tmp_path / "checkpoint-2").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "optimizer.pt", "trainer_state.json"} <= names
    assert not names & {"model.safetensors", "config.json", "training_args.bin"}
    assert not (tmp_path / "checkpoint-1").exists()


def test_a_run_ends_with_the_mean_of_its_last_checkpoints(folder, tmp_path):
    saved = {"save_strategy": "steps", "save_steps": 1, "max_steps": 4, "learning_rate": 1e-2, "warmup_steps": 0}
    adapter = run_recipe(make_recipe(folder, tmp_path, average_last=3, **saved))

    mean = load_file(adapter / "adapter_model.safetensors")
    parts = [load_file(tmp_path / f"checkpoint-{step}" / "adapter_model.safetensors") for step in (2, 3, 4)]
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, sum(part[name] for part in parts) / 3)
    assert any((tensor - parts[-1][name]).abs().max() > 1e-4 for name, tensor in mean.items())


@pytest.mark.parametrize(
    "fields, reason",
    [
        ({"average_last": 0}, "`average_last` must be at least 1, got 0"),
        ({"average_last": 2}, "needs that many checkpoints, of which the run keeps none"),
        ({"average_last": 3, "save_strategy": "steps", "save_total_limit": 2}, "of which the run keeps 2"),
        (
            {"average_last": 4, "save_strategy": "steps", "save_steps": 2, "save_total_limit": None},
            "6 steps with `save_steps` 2 give 3",
        ),
    ],
)
def test_a_mean_of_checkpoints_that_will_not_be_there_is_refused(folder, tmp_path, fields, reason):
    with pytest.raises(ValueError, match=reason):
        run_recipe(make_recipe(folder, tmp_path, **fields))


def test_what_was_trained_can_be_used_at_once(folder, tmp_path):
    """Its folder names its base model and holds a processor; evaluation takes it too."""
    adapter = run_recipe(make_recipe(folder, tmp_path, max_steps=1, learning_rate=1e-2, warmup_steps=0))

    found, processor = load_with_adapter(adapter)
    given, other = load_with_adapter(folder / "base", adapter)
    evaluated = load_model(folder / "base", adapter=adapter, device="cpu").model
    plain, _ = load_with_adapter(folder / "base")
    assert processor.chat_template == other.chat_template
    inputs = {**ask(processor, question(tones(0)))}
    with torch.no_grad():
        logits = [model(**inputs).logits for model in (found, given, evaluated, plain)]
    torch.testing.assert_close(logits[0], logits[1])
    torch.testing.assert_close(logits[0], logits[2])
    assert (logits[0] - logits[3]).abs().max() > 1e-3


def test_without_data_to_evaluate_on_nothing_is_evaluated(folder, tmp_path, caplog):
    run_recipe(make_recipe(folder, tmp_path / "run", max_steps=1, eval_strategy="steps", eval_steps=1))

    assert caplog.text.count("nothing is evaluated while training") == 1
    assert not any(name.startswith("eval") for name in json.loads((tmp_path / "run" / "curves.json").read_text()))
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps"}
    recipe = make_recipe(folder, tmp_path / "best", max_steps=1, eval_steps=1, save_steps=1, **best)
    with pytest.raises(ValueError, match="`load_best_model_at_end` needs data in `eval`"):
        build_trainer(recipe, *load_stage(recipe.stage))


def test_a_failure_while_training_is_no_wrong_argument(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(SalmonnTrainer, "find_scored_positions", lambda self, inputs: int("a fault"))
    with pytest.raises(RuntimeError, match="training failed: invalid literal"):
        run_recipe(make_recipe(folder, tmp_path, max_steps=1))


def test_the_seed_reaches_the_order_of_the_rows(folder):
    texts = []
    for seed in (0, 0, 1):
        data = make_recipe(folder, "unused", seed=seed).data
        texts.append(list(load_sources(data.train, data, small_processor(), seed)["text"]))
    assert texts[0] == texts[1] != texts[2] and sorted(texts[0]) == sorted(texts[2])


@pytest.mark.parametrize("moment", ["_save_rng_state", "_save_optimizer_and_scheduler", "publish"])
def test_an_interruption_never_leaves_half_a_checkpoint(folder, tmp_path, monkeypatch, moment):
    trainer = make_trainer(folder, tmp_path, save_strategy="steps", save_steps=2)

    def interrupt(*_):
        raise KeyboardInterrupt

    original = getattr(trainer, moment, trainer_module.publish)
    owner = trainer if hasattr(trainer, moment) else trainer_module
    # the first checkpoint is written, the second is not
    monkeypatch.setattr(
        owner, moment, lambda *args: (original if trainer.state.global_step == 2 else interrupt)(*args)
    )
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    monkeypatch.undo()

    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
    run_recipe(make_recipe(folder, tmp_path), resume=True)
    assert sorted(find_losses(tmp_path)) == [1, 2, 3, 4, 5, 6]
    assert not any(tmp_path.glob(".unfinished/*"))


def test_an_adapter_of_another_shape_is_refused(folder, tmp_path):
    adapter = run_recipe(make_recipe(folder, tmp_path / "run", max_steps=1))

    with pytest.raises(ValueError, match="`lora_r` and `lora_alpha` must be those of the adapter, 8 and 32"):
        load_stage(make_recipe(folder, tmp_path / "next", adapter=adapter, lora_r=4).stage)
    model, _ = load_stage(make_recipe(folder, tmp_path / "next", adapter=adapter).stage)
    assert model.model.language_model.layers[0].self_attn.q_proj.lora_dropout["default"].p == 0.1


# ----------------------------------------------------------------------------------------------------------------------
# Bad batches


class SpoilingCollator(PlainCollator):
    """Makes the features of one clip so large that they overflow in the first layer."""

    def __call__(self, rows):
        batch = super().__call__(rows)
        for number, row in enumerate(rows):
            if row["id"] == "clip 2":
                batch["input_features"][number] = torch.finfo(torch.float32).max
        return batch


def test_a_loss_that_is_not_a_number_stops_the_run_and_names_the_batch(tmp_path):
    collator = SpoilingCollator(small_processor())
    trainer = make_plain_trainer(
        tmp_path, small_model(), collator=collator, max_steps=4, per_device_train_batch_size=1
    )
    with pytest.raises(NonFiniteError, match=r"the loss is nan. The samples of the batch are clip 2\."):
        trainer.train()


def test_a_gradient_that_is_not_a_number_stops_the_run(tmp_path):
    trainer = make_plain_trainer(tmp_path, small_model(), max_steps=4)
    query = trainer.model.model.connector.modules_to_save["default"].query_tokens
    query.register_hook(lambda gradient: gradient * torch.inf)

    with pytest.raises(
        NonFiniteError, match="the norm of the gradient is (nan|inf). The samples of the batch are clip"
    ):
        trainer.train()
    assert torch.isfinite(query).all()


# ----------------------------------------------------------------------------------------------------------------------
# Evaluation


def test_prompts_are_what_comes_before_the_answer():
    ids = torch.tensor([[5, 6, 7, 1, 2, 0], [5, 6, 1, 1, 2, 3], [0, 0, 5, 6, 8, 2]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]])
    labels = torch.tensor([[-100, -100, -100, 1, 2, -100], [-100, -100, 1, 1, 2, 3], [-100, -100, -100, -100, 8, 2]])

    prompts, prompt_mask = cut_answers(ids, mask, labels)

    assert prompts.tolist() == [[0, 5, 6, 7], [0, 0, 5, 6], [0, 0, 5, 6]]
    assert prompt_mask.tolist() == [[0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]]


def test_evaluation_generates_as_the_model_does(folder, tmp_path):
    trainer = make_trainer(folder, tmp_path, eval=[str(folder / "clips" / "asr.jsonl")])
    prediction = trainer.predict(trainer.eval_dataset)
    answers = trainer.compute_metrics.decode(prediction.predictions)

    model, processor = trainer.model.eval(), trainer.eval_collator.collator.processor
    for number in (0, 7):
        clip = trainer.eval_dataset[number]["audio"]["path"]
        inputs = processor.apply_transcription_request(clip, prompt="Transcribe the speech.", return_tensors="pt")
        output = model.generate(**inputs, max_new_tokens=12, do_sample=False)[:, inputs["input_ids"].shape[1] :]
        assert processor.decode(output[0], skip_special_tokens=True).strip() == answers[number]
    assert prediction.metrics["test_wer"] > 0


def test_word_error_rate_is_over_the_whole_set():
    assert word_error_rate(["a b c d", "e"], ["a b c d", "x"]) == pytest.approx(1 / 5)
    assert word_error_rate(["A b "], ["a B"]) == 0
