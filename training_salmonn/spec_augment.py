# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""SpecAugment (1904.08779) on the mel rows of input features: bands and moments that are not heard."""

import random

import torch


BANDS, WIDEST_BAND = 2, 0.15  # stretches of mel bins, and the widest of them as a share of all
MOMENTS, LONGEST_MOMENT = 2, 20  # stretches of frames, and the longest of them, 0.2 s


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
            width = rng.randint(0, widest)
            start = rng.randint(0, heard.shape[dimension] - width)
            heard.narrow(dimension, start, width).fill_(mean)
