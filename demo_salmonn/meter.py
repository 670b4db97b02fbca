# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Time and peak memory of each part of a model while it runs.

    meter = PartMeter()
    with meter.watch(model):
        model.generate(...)
    print(meter.table())
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch


MEBIBYTE = 2**20


@dataclass
class PartUse:
    """What one part has taken so far."""

    seconds: float = 0.0
    calls: int = 0
    peak_bytes: int | None = None  # highest in one call
    grown_bytes: int | None = None  # highest above what was in use when the call began


class PartMeter:
    """
    Sums up, by name, the time spent in pieces of work, and keeps the largest peak of memory seen in one.

    On a GPU memory is what torch has allocated; on a CPU it is the resident set of the process, which only Linux lets
    one measure for a span of time. Elsewhere it is left out.
    """

    def __init__(self):
        self.parts: dict[str, PartUse] = {}

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Counts the block as one call of the part `name`."""
        start = self._start()
        try:
            yield
        finally:
            self._stop(name, start)

    @contextlib.contextmanager
    def watch(self, model: torch.nn.Module) -> Iterator[None]:
        """Counts every call of the parts of a `SalmonnForConditionalGeneration` while the block runs."""
        parts = {
            "Whisper": model.model.speech_encoder,
            "BEATs": model.model.beats,
            "connector": model.model.connector,
            "LLM": model.model.language_model,
        }
        hooks = [hook for name, module in parts.items() if module is not None for hook in self._hook(name, module)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _hook(self, name: str, module: torch.nn.Module) -> list:
        starts = []

        def before(module, args, kwargs):
            starts.append(self._start())

        def after(module, args, kwargs, output):
            self._stop(_phase(kwargs) if name == "LLM" else name, starts.pop())

        return [
            module.register_forward_pre_hook(before, with_kwargs=True),
            module.register_forward_hook(after, with_kwargs=True),
        ]

    def _start(self) -> tuple[float, int | None]:
        """Time and memory now."""
        _reset_peak()
        memory = read_peak()
        return time.perf_counter(), memory

    def _stop(self, name: str, start: tuple[float, int | None]) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        use = self.parts.setdefault(name, PartUse())
        use.seconds += time.perf_counter() - start[0]
        use.calls += 1
        peak = read_peak()
        if peak is not None and start[1] is not None:
            use.peak_bytes = max(peak, use.peak_bytes or 0)
            use.grown_bytes = max(peak - start[1], use.grown_bytes or 0)

    def table(self) -> str:
        """
        The parts in the order of their first call, one a line: seconds, calls, seconds for a call, the process's peak
        memory during the part, and how much of it came on top of what was in use before.
        """
        lines = [f"{'part':<14}{'seconds':>9}{'calls':>7}{'s/call':>9}{'peak MiB':>10}{'+MiB':>7}"]
        for name, use in self.parts.items():
            peak, grown = _mebibytes(use.peak_bytes), _mebibytes(use.grown_bytes)
            time_per_call = use.seconds / use.calls
            lines.append(f"{name:<14}{use.seconds:>9.3f}{use.calls:>7}{time_per_call:>9.4f}{peak:>10}{grown:>7}")
        return "\n".join(lines)


def _mebibytes(count: int | None) -> str:
    return "-" if count is None else f"{count / MEBIBYTE:.0f}"


def _phase(kwargs: dict) -> str:
    """Whether a call of the LLM reads the prompt or writes one more token."""
    inputs = kwargs.get("inputs_embeds")
    if inputs is None:
        inputs = kwargs.get("input_ids")
    return "LLM token" if inputs is not None and inputs.shape[1] == 1 else "LLM prefill"


def _reset_peak() -> None:
    """Lowers the recorded peak of memory to what is in use now."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return
    # Linux: 5 means the recorded peak of the resident set.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def read_peak() -> int | None:
    """Peak memory in bytes since the last reset, or `None` where it cannot be known."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None
