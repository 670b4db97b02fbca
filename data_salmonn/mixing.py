# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Mixing of data sets, with a weight for each and caps on tasks."""

from dataclasses import dataclass, field

import numpy as np

from data_salmonn.datasets import has_lists, make_lists, stream
from data_salmonn.extras import needs_extra


with needs_extra("train"):
    from datasets import Dataset, IterableDataset, concatenate_datasets, interleave_datasets


NO_TASK = "question"  # what rows are called whose question is asked as it stands


@dataclass
class MixturePart:
    """
    One data set of a mixture.

    Args:
        dataset (`Dataset` or `IterableDataset`):
            As [`load_training_data`] returns it.
        weight (`float`, *optional*):
            How often a row is drawn from it, relative to the other parts. Either all parts have one or none; without,
            every row of every part appears once.
        caps (`dict[str, int]`, *optional*):
            Most rows of a task, `{"asr": 200000}`; which ones is drawn at random. `"*"` stands for every other task, and
            `"question"` for rows without one.
    """

    dataset: Dataset | IterableDataset
    weight: float | None = None
    caps: dict[str, int] = field(default_factory=dict)

    def __post_init__(self):
        if self.weight is not None and not self.weight > 0:
            raise ValueError(f"`weight` must be positive, got {self.weight}.")
        for task, cap in self.caps.items():
            if isinstance(cap, bool) or not isinstance(cap, int) or cap < 0:
                raise ValueError(f"`caps` must hold numbers of rows, got {cap!r} for task {task!r}.")


def mix(parts: list[MixturePart], seed: int = 0, streaming: bool = False) -> Dataset | IterableDataset:
    """
    One data set out of several, in random order.

    With weights, parts are drawn from until the rows of the last one have all appeared: smaller ones start over. The
    same `seed` gives the same mixture.

    Args:
        parts (`list[MixturePart]`):
            What is mixed.
        seed (`int`, *optional*, defaults to 0):
            Seed of the order and of the rows that caps leave.
        streaming (`bool`, *optional*, defaults to `False`):
            Whether to return an `IterableDataset`, which it is anyway if a part is one.

    Raises a `ValueError` without parts, with weights for some parts only, or with caps on a part that is streamed: the
    rows of its tasks cannot be counted. Load it without streaming, or `take` rows of a part of one task.
    """
    if not parts:
        raise ValueError("`parts` must hold at least one data set, got none.")
    weights = [part.weight for part in parts if part.weight is not None]
    if weights and len(weights) < len(parts):
        raise ValueError(f"`parts` must all have a `weight` or none, got {[part.weight for part in parts]}.")

    mixed = [_cap_tasks(part, seed + index) for index, part in enumerate(parts)]
    streaming = streaming or any(isinstance(dataset, IterableDataset) for dataset in mixed)
    if streaming:
        mixed = [_stream(dataset, seed) for dataset in mixed]
    if any(map(has_lists, mixed)):
        mixed = [make_lists(dataset) for dataset in mixed]
    shared = set.intersection(*(set(dataset.column_names) for dataset in mixed))  # streamed parts may lack `length`
    mixed = [dataset.select_columns([c for c in dataset.column_names if c in shared]) for dataset in mixed]

    if weights:
        if not streaming:  # drawn in order otherwise
            mixed = [dataset.shuffle(seed=seed) for dataset in mixed]
        probabilities = [weight / sum(weights) for weight in weights]
        return interleave_datasets(mixed, probabilities, seed=seed, stopping_strategy="all_exhausted")
    if streaming:
        return interleave_datasets(mixed, seed=seed, stopping_strategy="all_exhausted_without_replacement")
    return concatenate_datasets(mixed).shuffle(seed=seed)


def _cap_tasks(part: MixturePart, seed: int) -> Dataset | IterableDataset:
    """The data set of `part` with as many rows of each task as its caps allow."""
    if not part.caps:
        return part.dataset
    if not isinstance(part.dataset, Dataset):
        raise ValueError(f"`caps` {part.caps} need a data set whose rows can be counted, got a streamed one.")
    tasks = np.array([task or NO_TASK for task in part.dataset["task"][:]])
    unknown = sorted(part.caps.keys() - {"*", *tasks.tolist()})
    if unknown:
        raise ValueError(
            f"`caps` names tasks that the data set does not have: {unknown}. It has {sorted(set(tasks))}."
        )
    kept, generator = [], np.random.default_rng(seed)
    for task in sorted(set(tasks)):
        rows = np.flatnonzero(tasks == task)
        cap = part.caps.get(task, part.caps.get("*", len(rows)))
        kept.append(generator.permutation(rows)[:cap])
    rows = np.sort(np.concatenate(kept))
    if not len(rows):
        raise ValueError(f"`caps` must leave at least one row of a data set, got {part.caps}, which leaves none.")
    return part.dataset.select(rows)


def _stream(dataset: Dataset | IterableDataset, seed: int) -> IterableDataset:
    if isinstance(dataset, IterableDataset):
        return dataset.shuffle(seed=seed, buffer_size=1000)
    # rows are not read in their order but by their index, so all of them are shuffled
    return stream(dataset.shuffle(seed=seed))
