# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""What a made piece of music may be: tempos, modes, the instruments of the soundfont, and styles."""

from dataclasses import dataclass

from nano_salmonn.data_makers.soundfont import DRUM_KIT


TEMPOS = {"slow": (60, 75), "medium": (95, 115), "fast": (140, 180)}  # beats per minute, with gaps between the words

# Minor is the harmonic one: its chord on the fifth step is major, as in most minor pieces, so a mode is told by its
# third and sixth and not by a missing leading tone.
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 11)}


@dataclass(frozen=True)
class Instrument:
    """
    An instrument of the soundfont.

    Its tonic lies within half an octave of `register` (a MIDI key). What it can do is its `role`: "chords" plays a
    melody, an accompaniment or both at once; "line" a melody only; "bass" a solo or the low notes of an accompaniment;
    "drums" an accompaniment only, since they have no mode.
    """

    label: str
    program: int
    register: int
    role: str

    @property
    def plural(self) -> bool:
        return self.label.endswith("s")

    @property
    def phrase(self) -> str:
        return self.label if self.plural else with_article(self.label)


INSTRUMENTS = {
    instrument.label: instrument
    for instrument in (
        Instrument("piano", 0, 62, "chords"),
        Instrument("organ", 19, 62, "chords"),
        Instrument("acoustic guitar", 25, 57, "chords"),
        Instrument("electric guitar", 30, 57, "chords"),
        Instrument("harp", 46, 64, "chords"),
        Instrument("choir", 52, 62, "chords"),
        Instrument("music box", 10, 79, "chords"),
        Instrument("accordion", 21, 65, "chords"),
        Instrument("banjo", 105, 62, "chords"),
        Instrument("synthesizer", 81, 62, "chords"),
        Instrument("violin", 40, 69, "line"),
        Instrument("cello", 42, 48, "line"),
        Instrument("trumpet", 56, 65, "line"),
        Instrument("saxophone", 66, 60, "line"),  # the tenor: the soundfont's alto has a constant offset
        Instrument("clarinet", 71, 64, "line"),
        Instrument("flute", 73, 76, "line"),
        Instrument("xylophone", 13, 74, "line"),
        Instrument("sitar", 104, 57, "line"),
        Instrument("church bells", 14, 64, "line"),
        Instrument("bass guitar", 33, 40, "bass"),
        Instrument("drums", DRUM_KIT, 0, "drums"),
    )
}

KICK, SIDE_STICK, SNARE, HIHAT = 36, 37, 38, 42


@dataclass(frozen=True)
class Style:
    """
    What makes a style. Lengths and places are in beats.

    Args:
        beats: In a measure.
        rhythms: Note values of a measure of the melody, of which one is drawn.
        held: Part of a note's value that it sounds.
        roots: Place and length of the notes of the accompaniment that are the root of the chord alone.
        triads: The same of those that are the whole chord.
        drums: Place, drum and velocity in a measure.
        tempos: That the style is played in.
        needs_chords: Whether it is only heard with an accompaniment.
    """

    beats: int
    rhythms: tuple[tuple[float, ...], ...]
    held: float
    roots: tuple[tuple[float, float], ...]
    triads: tuple[tuple[float, float], ...]
    drums: tuple[tuple[float, int, int], ...]
    tempos: tuple[str, ...] = tuple(TEMPOS)
    needs_chords: bool = False


STYLES = {
    "waltz": Style(
        beats=3,
        rhythms=((2, 1), (1, 1, 1), (1, 0.5, 0.5, 1)),
        held=0.95,
        roots=((0, 0.9),),
        triads=((1, 0.5), (2, 0.5)),
        drums=((0, KICK, 110), (1, SNARE, 70), (2, SNARE, 70)),
        needs_chords=True,
    ),
    "march": Style(
        beats=2,
        rhythms=((0.75, 0.25, 1), (0.75, 0.25, 0.75, 0.25), (1, 0.75, 0.25)),
        held=0.7,
        roots=((0, 0.5),),
        triads=((1, 0.5),),
        drums=((0, KICK, 110), (0, SNARE, 100), (0.5, SNARE, 60), (0.75, SNARE, 60), (1, SNARE, 90), (1.5, SNARE, 60)),
    ),
    "ballad": Style(
        beats=2,
        rhythms=((1, 1), (1.5, 0.5), (2,)),
        held=1.0,
        roots=(),
        triads=((0, 2),),
        drums=((0, KICK, 90), (0, HIHAT, 60), (0.5, HIHAT, 50), (1, SIDE_STICK, 80), (1, HIHAT, 60), (1.5, HIHAT, 50)),
        tempos=("slow", "medium"),
        needs_chords=True,
    ),
    "arpeggio": Style(
        beats=2,
        rhythms=((0.5, 0.5, 0.5, 0.5),),
        held=1.0,
        roots=((0, 2),),
        triads=(),
        drums=((0, KICK, 100), (0, HIHAT, 80), (0.5, HIHAT, 60), (1, HIHAT, 80), (1.5, HIHAT, 60)),
    ),
    "riff": Style(
        beats=2,
        rhythms=((0.75, 0.75, 0.5), (0.5, 0.25, 0.25, 0.5, 0.5), (0.5, 1, 0.5), (0.75, 0.25, 0.5, 0.5)),
        held=0.8,
        roots=((0, 0.4), (0.5, 0.4), (1, 0.4), (1.5, 0.4)),
        triads=(),
        drums=((0, KICK, 115), (0, HIHAT, 80), (0.5, HIHAT, 70), (1, SNARE, 110), (1, HIHAT, 80), (1.5, HIHAT, 70)),
    ),
    "scale run": Style(
        beats=2,
        rhythms=((0.5, 0.5, 0.5, 0.5),),
        held=0.9,
        roots=(),
        triads=((0, 1),),
        drums=((0, KICK, 110), (1, SNARE, 90)),
    ),
}


def with_article(phrase: str) -> str:
    """The phrase with its indefinite article, by its first letter, which is enough for the words of this file."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"
