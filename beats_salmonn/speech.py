# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Whether anything is said in a clip, by the tags of a BEATs: a language model that is asked for a transcript writes one,
whatever is heard.

    detector = SpeechDetector("checkpoints/salmonn-nano/beats")
    if detector.has_speech(samples):
        ...
"""

import os
from collections.abc import Sequence

import numpy as np

from beats_salmonn.tagging import Tagger
from beats_salmonn.windows import Clip


# Seconds heard at a time: a word among silence is lost in the mean over a longer window.
WINDOW = 2.0
NO_SPEECH_THRESHOLD = 0.95
# Labels of whose clips there are words, in small letters: of the BEATs of salmonn-nano, by the names of AudioSet, and by its
# identifiers, in the same order. Songs have words too.
SPEECH_LABELS = (
    *("speech", "male speech, man speaking", "female speech, woman speaking", "child speech, kid speaking"),
    *("conversation", "narration, monologue", "speech synthesizer", "shout", "whispering", "singing", "rapping"),
    *("/m/09x0r", "/m/05zppz", "/m/02zsn", "/m/0ytgt", "/m/01h8n0", "/m/02qldy", "/m/0brhx", "/m/07p6fty"),
    *("/m/02rtxlg", "/m/015lz1", "/m/06bxc"),
)


class SpeechDetector:
    """
    Says whether there is speech in a clip.

    Args:
        model: a BEATs with a classifier, as [`Tagger`] takes it.
        no_speech_threshold: nothing is said in clips with a higher [`~SpeechDetector.no_speech_prob`], as with Whisper's option of
            the same name. 1 takes every clip for speech.
        device: where to compute.
        labels: those of the model that stand for speech, all of [`SPEECH_LABELS`] that it has unless given.

    Raises:
        ValueError: if the threshold is no probability, or the model has no classifier or none of these labels.
    """

    def __init__(
        self,
        model: str | os.PathLike,
        no_speech_threshold: float = NO_SPEECH_THRESHOLD,
        device: str = "cpu",
        labels: Sequence[str] | None = None,
    ):
        if not isinstance(no_speech_threshold, (int, float)) or not 0 <= no_speech_threshold <= 1:
            raise ValueError(f"`no_speech_threshold` must be a probability, from 0 to 1, got {no_speech_threshold!r}.")
        self.no_speech_threshold = no_speech_threshold
        self.tagger = Tagger(model, device)
        wanted = {label.lower() for label in labels or SPEECH_LABELS}
        self._indices = [index for index, label in enumerate(self.tagger.labels) if label.lower() in wanted]
        if not self._indices:
            raise ValueError(f"`model` {model} has no label of speech among its {len(self.tagger.labels)}.")

    @classmethod
    def from_options(
        cls, model: str | os.PathLike | None, no_speech_threshold: float | None, device: str = "cpu"
    ) -> "SpeechDetector | None":
        """That of a model, with the usual threshold unless there is another; none without a model."""
        if model is None:
            return None
        threshold = NO_SPEECH_THRESHOLD if no_speech_threshold is None else no_speech_threshold
        return cls(model, threshold, device)

    def no_speech_prob(self, samples: np.ndarray) -> float:
        """
        How likely it is that nothing is said in `samples`, `(samples,)` of 16 kHz: 1 less the highest score of speech in any window.
        Of a clip shorter than BEATs hears, 0.175 s, it is 1.
        """
        if len(samples) < round(self.tagger.columns.shortest * self.tagger.columns.extractor.sampling_rate):
            return 1.0
        (tags,) = self.tagger.tag([Clip("the clip", samples)], window=WINDOW)
        return 1.0 - float(tags.best[self._indices].max())

    def has_speech(self, samples: np.ndarray) -> bool:
        """Whether something is said in `samples`, `(samples,)` of 16 kHz."""
        return self.no_speech_prob(samples) <= self.no_speech_threshold
