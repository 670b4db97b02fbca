# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
A clip to look at: its waveform, and the log-mel spectrogram that Whisper reads, over one axis of time.

Both are drawn in the colour of the page's style sheet, so that they fit its light and its dark side.
"""

import base64
import html
import io

import numpy as np
from transformers.audio_utils import hertz_to_mel

from data_salmonn.extras import needs_extra


COLUMNS = 600  # of both pictures; more would not be seen
HERTZ = (500, 1000, 2000, 4000)
SECONDS = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600)
MOST_TICKS = 7


def draw_clip(samples: np.ndarray, log_mel: np.ndarray, sampling_rate: int, segment_seconds: float = 30.0) -> str:
    """
    HTML of both pictures.

    Args:
        samples (`np.ndarray` of shape `(samples,)`): waveform.
        log_mel (`np.ndarray` of shape `(mel_bins, frames)`): what Whisper reads of it, lowest frequency first.
        sampling_rate: of `samples`.
        segment_seconds: length of the pieces that a longer clip is heard in; their borders are drawn.
    """
    seconds = len(samples) / sampling_rate
    borders = np.arange(1, int(np.ceil(seconds / segment_seconds))) * segment_seconds
    lines = "".join(f'<i class="border" style="left:{100 * at / seconds:.2f}%"></i>' for at in borders)
    times = "".join(
        f'<span style="left:{100 * at / seconds:.2f}%">{at:g}{"" if at else " s"}</span>' for at in time_ticks(seconds)
    )
    hertz = "".join(
        f'<span style="bottom:{100 * height:.1f}%">{_short_hertz(value)}</span>'
        for value, height in frequency_ticks(sampling_rate)
    )
    label = html.escape(f"Waveform and log-mel spectrogram of {seconds:.1f} seconds of sound", quote=True)
    return (
        f'<figure class="clip-picture" role="img" aria-label="{label}">'
        f'<div class="wave">{draw_waveform(samples)}{lines}</div>'
        f'<div class="mel"><div class="ink" style="--picture:url({draw_spectrogram(log_mel)})"></div>{lines}'
        f'<div class="hertz">{hertz}</div></div>'
        f'<div class="times">{times}</div></figure>'
    )


def envelope(samples: np.ndarray, columns: int = COLUMNS) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest sample in each of at most `columns` equal pieces of the clip, `(columns,)` each."""
    columns = min(columns, len(samples))
    starts = np.arange(columns) * len(samples) // columns
    return np.minimum.reduceat(samples, starts), np.maximum.reduceat(samples, starts)


def draw_waveform(samples: np.ndarray) -> str:
    """SVG of the waveform, stretched to the largest sample (but silence stays flat)."""
    low, high = envelope(samples)
    scale = 0.96 / max(float(np.abs(samples).max()), 1e-3)
    # never thinner than a line
    top, bottom = np.minimum(-high * scale, -0.012), np.maximum(-low * scale, 0.012)
    across = np.arange(len(low)) + 0.5
    points = [*zip(across, top), *zip(across[::-1], bottom[::-1])]
    path = "M" + "L".join(f"{x:.1f} {y:.3f}" for x, y in points) + "Z"
    return f'<svg viewBox="0 -1 {len(low)} 2" preserveAspectRatio="none" aria-hidden="true"><path d="{path}"/></svg>'


def draw_spectrogram(log_mel: np.ndarray, columns: int = COLUMNS) -> str:
    """
    A data URL of a PNG whose opacity is the loudness of each frequency in time, high frequencies on top.

    Whisper's values reach from its loudest point down by at most 2 (80 dB); only what is loud for this clip is drawn.
    """
    with needs_extra("web"):
        from PIL import Image

    columns = min(columns, log_mel.shape[1])
    starts = np.arange(columns) * log_mel.shape[1] // columns
    loudest = np.maximum.reduceat(log_mel, starts, axis=1)
    ceiling, floor = float(loudest.max()), max(float(loudest.min()), float(loudest.max()) - 2)
    opacity = np.clip((loudest - floor) / max(ceiling - floor, 1e-6), 0, 1) ** 1.4
    if ceiling - floor < 1e-3:  # silence is the same everywhere
        opacity[:] = 0
    alpha = Image.fromarray((255 * opacity[::-1]).astype(np.uint8))
    image = Image.merge("LA", [Image.new("L", alpha.size, 0), alpha])
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def time_ticks(seconds: float) -> list[float]:
    """A few round times from 0 on that are not so close to the end that they would stand over it."""
    step = next((step for step in SECONDS if seconds / step <= MOST_TICKS), max(SECONDS))
    return [float(at) for at in np.arange(0, seconds, step) if at <= 0.96 * seconds]


def frequency_ticks(sampling_rate: int) -> list[tuple[int, float]]:
    """Frequencies and their height in the picture, 0 to 1: Whisper's mel scale up to half of the sampling rate."""
    top = hertz_to_mel(sampling_rate / 2, mel_scale="slaney")
    return [(value, float(hertz_to_mel(float(value), mel_scale="slaney") / top)) for value in HERTZ]


def _short_hertz(value: int) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else str(value)
