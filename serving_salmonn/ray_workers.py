# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Workers of Ray Data that answer batches of a corpus."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict

from data_salmonn.extras import needs_extra
from serving_salmonn.answerers import Answerer, Settings, answer_batch
from serving_salmonn.corpus import Item


with needs_extra("ray"):
    import ray
    import ray.data


MAX_BLOCKS = 4096  # what a worker takes at a time, and another one makes again if it is lost


class Worker:
    """An actor with a model of its own; it takes batches of items, as JSON, and returns rows of the output."""

    def __init__(self, settings: Settings):
        self.answerer = Answerer(settings)

    def __call__(self, batch: dict) -> dict:
        rows = []
        for text in batch["items"]:
            items = [Item(**{**item, "paths": tuple(item["paths"])}) for item in json.loads(text)]
            rows.append(json.dumps(answer_batch(self.answerer, items)))
        return {"rows": rows}


def answer_on_ray(settings: Settings, batches: Iterable[Sequence[Item]]) -> Iterator[list[dict]]:
    """Yields the rows of each batch as soon as a worker has answered it, in any order."""
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS")
        # without a cluster this machine is one: with a core more than workers, to read and move blocks
        here = {} if address else {"num_cpus": max(os.cpu_count(), (settings.workers or 1) + 1)}
        ray.init(address=address or "local", log_to_driver=False, **here)
    gpus = int(ray.cluster_resources().get("GPU", 0))
    workers = settings.workers or max(gpus, 1)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # the job has one of its own
    context.execution_options.preserve_order = False
    rows = [{"items": json.dumps([asdict(item) for item in batch], ensure_ascii=False)} for batch in batches]
    data = ray.data.from_items(rows, override_num_blocks=min(len(rows), MAX_BLOCKS)).map_batches(
        Worker,
        fn_constructor_args=(settings,),
        batch_size=1,  # of batches, each of which was made for the whole corpus
        num_gpus=1 if gpus else 0,
        num_cpus=1,
        concurrency=workers,
    )
    for row in data.iter_rows():
        yield json.loads(row["rows"])
