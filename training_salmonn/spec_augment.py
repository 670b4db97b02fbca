# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
SpecAugment (1904.08779) on the mel rows of input features: bands and moments that are not heard. Where the output of the
encoders is kept, it is masked in their place, as wav2vec 2.0 masks its own (2006.11477, section 3.1 and appendix B).
"""

import random

import torch


BANDS, WIDEST_BAND = 2, 0.15  # stretches of mel bins, and the widest of them as a share of all
MOMENTS, LONGEST_MOMENT = 2, 20  # stretches of frames, and the longest of them, 0.2 s
# Of the encoders' output, of which a second has 50 frames.
STATE_BANDS, WIDEST_STATE_BAND = 2, 0.1
FRAMES_A_MOMENT, LONGEST_STATE_MOMENT = 50, 12  # a moment in a second, of up to 0.24 s


def mask_mel(features: torch.Tensor, num_frames: int, rng: random.Random) -> None:
    """
    Puts the mean in the place of some bands and moments of a segment, in `features` itself.

    Args:
        features: `(mel_bins, frames)`.
        num_frames: Frames that are not padding, the first ones.
        rng: Draws how wide stretches are, from nothing on, and where.
    """
    heard = features[:, :num_frames]
    mean = heard.mean().item()
    for dimension, count, widest in (
        (0, BANDS, round(WIDEST_BAND * len(features))),
        (1, MOMENTS, min(LONGEST_MOMENT, num_frames // 4)),
    ):
        for _ in range(count):
            start, stop = _draw_stretch(heard.shape[dimension], widest, rng)
            heard.narrow(dimension, start, stop - start).fill_(mean)


def mask_states(states: torch.Tensor, num_frames: int, rng: random.Random) -> None:
    """
    Puts each channel's mean in the place of some moments of what the encoders gave for a segment, and of all of it in some
    stretches of channels, in `states` itself.

    Args:
        states: `(channels, frames)`.
        num_frames: Frames that are not padding, the first ones.
        rng: Draws how wide stretches are, from nothing on, and where.
    """
    heard = states[:, :num_frames]
    mean = heard.float().mean(dim=1, keepdim=True).to(states.dtype)  # (channels, 1)
    for _ in range(-(-num_frames // FRAMES_A_MOMENT)):
        start, stop = _draw_stretch(num_frames, min(LONGEST_STATE_MOMENT, num_frames // 4), rng)
        heard[:, start:stop] = mean
    for _ in range(STATE_BANDS):
        start, stop = _draw_stretch(len(states), round(WIDEST_STATE_BAND * len(states)), rng)
        heard[start:stop] = mean[start:stop]


def _draw_stretch(length: int, widest: int, rng: random.Random) -> tuple[int, int]:
    width = rng.randint(0, widest)
    start = rng.randint(0, length - width)
    return start, start + width
