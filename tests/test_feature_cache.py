# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""The cache of encoder outputs: same numbers as without it, no encoder at work, and no other model's features."""

import copy
import json
import pickle
import time
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist
from peft import get_peft_model

from data_salmonn.files import UNFINISHED
from tiny_salmonn import noise, tiny_config, tiny_model, tiny_processor, with_adapter
from training_salmonn.collator import SalmonnDataCollator
from training_salmonn.feature_cache import (
    CachedFeatureExtractor,
    FeatureCache,
    segment_key,
)
from training_salmonn.frozen_encoders import find_salmonn, freeze_encoders, unfreeze_encoders


CLIPS = [noise(1.3, seed=1), noise(2.6, seed=2), noise(1.9, seed=3)]
ROWS = [
    {"audio": {"array": clip, "sampling_rate": 16000}, "text": text, "task": "asr", "id": text}
    for clip, text in zip(CLIPS, ("one", "two words", "a third one"))
]
CONFIGS = {
    "qformer": {},
    "real length": {"fixed_length": False},
    "speech only": {"beats_config": None},
    "BEATs only": {"speech_config": None},
    "real length, BEATs only": {"speech_config": None, "fixed_length": False},
    "segment positions": {"segment_position_embeddings": True, "connector_type": "linear"},
}


def prepare(tmp_path, name: str = "qformer", dtype: torch.dtype = torch.float32):
    """A model with an adapter, its processor, and a cache of `CLIPS`."""
    config = tiny_config(**CONFIGS[name])
    processor = tiny_processor(config)
    model = with_adapter(tiny_model(config)).to(dtype)
    cache = FeatureCache(tmp_path / "cache", model, processor.feature_extractor)
    return model, processor, cache


def count_encoder_runs(model) -> list[str]:
    """A list that grows by a name with every run of an encoder."""
    runs: list[str] = []
    salmonn = find_salmonn(model)
    for name, encoder in (("speech", salmonn.speech_encoder), ("beats", salmonn.beats)):
        if encoder is not None:
            encoder.register_forward_pre_hook(lambda *_, name=name: runs.append(name))
    return runs


def train(model, collator, steps: int = 3) -> tuple[list[float], list[torch.Tensor]]:
    """Losses, and what was trained, after a few steps over batches of different sizes."""
    trained = [p for name, p in model.named_parameters() if "lora_" in name or "modules_to_save" in name]
    for parameter in model.parameters():
        parameter.requires_grad_(any(parameter is one for one in trained))
    optimizer = torch.optim.SGD(trained, lr=0.05)
    losses = []
    for step in range(steps):
        collator.set_epoch(step)
        batch = collator(ROWS if step % 2 else ROWS[1:])
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, [parameter.detach().clone() for parameter in trained]


@pytest.mark.parametrize("name", CONFIGS)
def test_training_on_the_cache_is_the_same_and_runs_no_encoder(tmp_path, name):
    model, processor, cache = prepare(tmp_path, name)
    plain = copy.deepcopy(model)
    assert cache.build(CLIPS) == 3
    runs, plain_runs = count_encoder_runs(model), count_encoder_runs(plain)

    losses, weights = train(model, SalmonnDataCollator(cache.cached_processor(processor)))
    plain_losses, plain_weights = train(plain, SalmonnDataCollator(processor))

    # the cache encodes other clips together than a batch does, which some processors round differently
    assert losses == pytest.approx(plain_losses, abs=1e-5) and len(set(losses)) == 3
    for one, other in zip(weights, plain_weights, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert runs == [] and len(plain_runs) == 7 * (1 if "only" in name else 2)  # 2 + 3 + 2 clips


@pytest.mark.parametrize("name", CONFIGS)
def test_frozen_encoders_agree_with_the_model_and_are_undone(name):
    config = tiny_config(**CONFIGS[name])
    processor, model = tiny_processor(config), tiny_model(config)
    model.requires_grad_(False)  # kernels differ with and without gradients
    inputs = processor.feature_extractor(CLIPS, 16000, return_tensors="pt")
    original, before, weights = (
        type(model.model.audio_encoder),
        model.get_audio_features(**inputs),
        set(model.state_dict()),
    )
    freeze_encoders(freeze_encoders(model))  # twice is once
    after = model.get_audio_features(**inputs)
    # batched sums round differently; anything else would be a different computation
    for output in ("last_hidden_state", "pooler_output"):
        torch.testing.assert_close(after[output], before[output], atol=2e-4, rtol=1e-4)
    assert type(model.model.audio_encoder).__name__ == original.__name__ and set(model.state_dict()) == weights
    assert type(unfreeze_encoders(model).model.audio_encoder) is original
    assert torch.equal(model.get_audio_features(**inputs).pooler_output, before.pooler_output)


def test_a_clip_gives_the_same_bits_in_every_batch():
    config = tiny_config()
    processor, model = tiny_processor(config), freeze_encoders(tiny_model(config))
    features = [processor.feature_extractor(clips, 16000, return_tensors="pt") for clips in (CLIPS, CLIPS[2:])]
    with torch.no_grad():
        together, alone = (model.get_audio_features(**inputs).last_hidden_state for inputs in features)
    assert torch.equal(together[2:], alone)


def test_the_salmonn_is_found_in_wrappers():
    model = tiny_model(tiny_config())
    salmonn = model.model
    assert find_salmonn(model) is find_salmonn(salmonn) is salmonn
    assert find_salmonn(get_peft_model(salmonn, salmonn.lora_config())) is salmonn
    with pytest.raises(ValueError, match="must be a SALMONN, got Linear"):
        find_salmonn(torch.nn.Linear(1, 1))


@pytest.mark.parametrize("autocast_dtype", [None, torch.bfloat16])
def test_the_cache_keeps_every_dtype_bit_for_bit(tmp_path, autocast_dtype):
    dtype = torch.bfloat16 if autocast_dtype is None else torch.float32
    config = tiny_config()
    processor, model = tiny_processor(config), tiny_model(config).to(dtype)
    cache = FeatureCache(tmp_path, model, processor.feature_extractor, autocast_dtype=autocast_dtype)
    cache.build(CLIPS)
    inputs = processor.feature_extractor(CLIPS, 16000, return_tensors="pt")
    cached = CachedFeatureExtractor(cache)(CLIPS, 16000)
    assert cached["input_features"].shape == (3, config.encoder_width, 200)
    for name in ("input_features_mask", "segment_ids"):
        assert torch.equal(cached[name], inputs[name])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast_dtype is not None):
        expected = model.get_audio_features(**inputs)
        found = model.get_audio_features(**cached)
    assert torch.equal(found.last_hidden_state, expected.last_hidden_state)
    assert torch.equal(found.pooler_output, expected.pooler_output)


def test_dropout_does_not_reach_the_cache(tmp_path):
    config = tiny_config()
    config.speech_config.dropout = config.beats_config.hidden_dropout = 0.5
    processor, model = tiny_processor(config), tiny_model(config).train()
    features = []
    for name in "ab":
        cache = FeatureCache(tmp_path / name, model, processor.feature_extractor)
        cache.build(CLIPS[:1])
        features.append(cache.read(CLIPS[0])[0])
    assert torch.equal(*features)
    assert not model.model.speech_encoder.training and not model.model.beats.training


def test_only_what_is_missing_is_encoded_and_found_again(tmp_path):
    model, processor, cache = prepare(tmp_path)
    runs = count_encoder_runs(model)
    long = noise(5, seed=4)
    assert cache.build([CLIPS[0], CLIPS[0], long]) == 3  # two segments of `long`
    assert len(cache) == 3 and CLIPS[0] in cache and long in cache and CLIPS[1] not in cache
    assert runs == ["speech", "beats"] * 3
    again = FeatureCache(cache.folder, model, processor.feature_extractor)
    assert len(again) == 3 and again.build([CLIPS[0], CLIPS[1]]) == 1 and len(runs) == 8
    assert len(list(cache.folder.glob("part-*.arrow"))) == 2
    # positions in a clip: the second segment is known as such
    assert CachedFeatureExtractor(again)([long], 16000)["segment_ids"].tolist() == [0, 1]


def test_what_was_encoded_before_a_bad_clip_is_kept(tmp_path):
    model, processor, cache = prepare(tmp_path)
    with pytest.raises(ValueError, match="no such file"):
        cache.build([CLIPS[0], CLIPS[1], "missing.wav"])
    again = FeatureCache(cache.folder, model, processor.feature_extractor)
    assert CLIPS[0] in again and CLIPS[1] in again
    (cache.folder / f".part-0.arrow.7{UNFINISHED}").write_bytes(b"half of a file")  # a process was killed
    assert len(FeatureCache(cache.folder, model, processor.feature_extractor)) == 2


def test_large_caches_go_to_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr("training_salmonn.feature_cache.PART_BYTES", 60_000)
    _, _, cache = prepare(tmp_path)
    cache.build(CLIPS)
    assert len(list(cache.folder.glob("part-*.arrow"))) == 2
    assert all(clip in cache for clip in CLIPS)


def test_changed_encoders_are_refused(tmp_path):
    model, processor, cache = prepare(tmp_path)
    cache.build(CLIPS[:1])
    with torch.no_grad():
        next(model.model.beats.parameters()).flatten()[3] += 1e-6
    with pytest.raises(ValueError, match=r"made by other encoders.*weights\.beats"):
        FeatureCache(cache.folder, model, processor.feature_extractor)
    with pytest.raises(ValueError, match=r"dtypes\.beats.*float32.*bfloat16"):
        FeatureCache(cache.folder, model.to(torch.bfloat16), processor.feature_extractor)


def test_encoders_that_change_while_a_cache_is_open_are_refused(tmp_path):
    model, _, cache = prepare(tmp_path)
    cache.build(CLIPS[:1])
    with torch.no_grad():
        model.model.speech_encoder.conv1.bias[0] += 1
    with pytest.raises(ValueError, match=r"weights\.speech_encoder"):
        cache.build(CLIPS)
    assert len(cache) == 1


def test_other_settings_are_refused(tmp_path):
    model, processor, cache = prepare(tmp_path)
    assert not cache.folder.exists()  # a folder belongs to no one until something is in it
    cache.build([])
    with pytest.raises(ValueError, match="autocast_dtype"):
        FeatureCache(cache.folder, model, processor.feature_extractor, autocast_dtype=torch.bfloat16)
    model.config.beats_config.layer_norm_eps = model.model.beats.config.layer_norm_eps = 1e-3
    with pytest.raises(ValueError, match="layer_norm_eps"):
        FeatureCache(cache.folder, model, processor.feature_extractor)


def test_an_encoder_that_is_trained_is_refused(tmp_path):
    model, processor, cache = prepare(tmp_path)
    cache.build(CLIPS)
    batch = SalmonnDataCollator(cache.cached_processor(processor))(ROWS)
    model.model.speech_encoder.layer_norm.weight.requires_grad_(True)
    with pytest.raises(ValueError, match=r"speech_encoder\.layer_norm\.weight has `requires_grad`"):
        model(**batch)


def test_clips_that_are_not_cached_are_refused(tmp_path):
    _, processor, cache = prepare(tmp_path)
    cache.build(CLIPS[:2])
    with pytest.raises(ValueError, match=r"does not hold a segment of 1.90 s"):
        SalmonnDataCollator(cache.cached_processor(processor))(ROWS)
    with pytest.raises(ValueError, match="concatenate_probability"):
        SalmonnDataCollator(cache.cached_processor(processor), concatenate_probability=0.5)


def test_spec_augment_masks_what_the_encoders_gave(tmp_path):
    model, processor, cache = prepare(tmp_path)
    cache.build(CLIPS)
    processor = cache.cached_processor(processor)
    plain, masked = (SalmonnDataCollator(processor, spec_augment=share)(ROWS) for share in (0.0, 1.0))
    for before, after, mask in zip(plain["input_features"], masked["input_features"], plain["input_features_mask"]):
        frames = -(-int(mask.sum()) // 2)
        assert torch.equal(before[:, frames:], after[:, frames:])  # padding
        changed = before != after
        assert 0 < changed.float().mean() < 0.7
        means = before[:, :frames].mean(dim=1, keepdim=True).expand_as(before)
        assert torch.equal(after[changed], means[changed])  # of each channel
    assert all(torch.equal(plain[name], masked[name]) for name in plain if name != "input_features")
    assert torch.equal(
        SalmonnDataCollator(processor, spec_augment=1.0)(ROWS)["input_features"], masked["input_features"]
    )
    model(**masked)


def test_features_of_another_model_are_refused(tmp_path):
    _, processor, cache = prepare(tmp_path)
    cache.build(CLIPS)
    batch = SalmonnDataCollator(cache.cached_processor(processor))(ROWS)
    other = freeze_encoders(tiny_model(tiny_config(beats_config=None)))
    with pytest.raises(ValueError, match="the 32 rows of the encoders, got 64"):
        other(**batch)


TIMEOUT = 4  # seconds that a collective of the run waits


def build_in_process(rank: int, folder, clips, is_slow: bool) -> None:
    """One of two processes that build a cache; notes what it encoded and how that ended."""
    torch.set_num_threads(1)
    timeout = timedelta(seconds=TIMEOUT)
    dist.init_process_group("gloo", f"file://{folder}/store", timeout=timeout, rank=rank, world_size=2)
    model, _, cache = prepare(folder)
    runs = count_encoder_runs(model)
    dist.barrier(dist.new_group(timeout=timedelta(minutes=5)))
    if is_slow and rank:
        encode = cache._encode
        cache._encode = lambda segment: time.sleep(2 * TIMEOUT) or encode(segment)
    try:
        found = cache.build(clips)
    except ValueError as error:
        found = str(error)
    (folder / f"{rank}.json").write_text(json.dumps([runs.count("speech"), found]))


def build_in_two(folder, clips, is_slow: bool = False) -> list:
    context = torch.multiprocessing.get_context("fork")
    processes = [
        context.Process(target=build_in_process, args=(rank, folder, clips, is_slow), daemon=True) for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_processes_share_the_work_however_long_it_takes(tmp_path):
    assert build_in_two(tmp_path, CLIPS, is_slow=True) == [[2, 3], [1, 3]]
    model, processor, cache = prepare(tmp_path)
    assert len(cache) == 3 and cache.build(CLIPS) == 0
    alone = FeatureCache(tmp_path / "alone", model, processor.feature_extractor)
    alone.build(CLIPS)
    assert all(torch.equal(cache.read(clip)[0], alone.read(clip)[0]) for clip in CLIPS)


def test_what_fails_in_one_process_is_raised_in_all(tmp_path):
    (_, first), (_, second) = build_in_two(tmp_path, [CLIPS[0], "gone.wav"])
    assert "Process 1 could not do its share" in first and "gone.wav: there is no such file" in first
    assert second.startswith("`audio` gone.wav")


def test_workers_read_the_cache_without_the_model(tmp_path):
    _, processor, cache = prepare(tmp_path)
    cache.build(CLIPS)
    collator = SalmonnDataCollator(cache.cached_processor(processor))
    collator(ROWS)  # files are open
    copied = pickle.loads(pickle.dumps(cache))
    assert all(torch.equal(a, b) for a, b in zip(copied.read(CLIPS[0])[:2], cache.read(CLIPS[0])[:2]))
    with pytest.raises(ValueError, match="needs the model"):
        copied.build(CLIPS)
    loader = torch.utils.data.DataLoader(ROWS, batch_size=2, collate_fn=collator, num_workers=1)
    assert torch.equal(next(iter(loader))["input_features"], collator(ROWS[:2])["input_features"])


def test_keys_are_those_of_the_samples():
    clip = CLIPS[0]
    assert segment_key(clip) == segment_key(clip.astype(np.float64)) == segment_key(clip.copy())
    changed = clip.copy()
    changed[7] += 1e-6
    assert segment_key(changed) != segment_key(clip)
