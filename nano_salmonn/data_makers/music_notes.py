# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
The notes of a made piece of music: a melody over a chord progression, and its accompaniment.

The rules are few, and each makes one fact audible: the tempo, because the note values of a style are the same at every
tempo; the mode, because both modes have the same progressions, tunes and riffs open with the tonic and its third, and
arpeggios and scales run through them; the style by its metre, rhythm and accompaniment.
"""

import math
import random
from dataclasses import dataclass

from nano_salmonn.data_makers.clips import row_rng
from nano_salmonn.data_makers.music_facts import INSTRUMENTS, SCALES, STYLES, TEMPOS, Instrument, Style
from nano_salmonn.data_makers.soundfont import Note


# Roots of the chords, a measure each, in steps of the scale from the tonic: the chords that tell the modes apart.
TONIC, SUBDOMINANT, DOMINANT = 0, 3, -3
PROGRESSIONS = (
    (TONIC, SUBDOMINANT, DOMINANT, TONIC),
    (TONIC, DOMINANT, TONIC, SUBDOMINANT),
    (TONIC, TONIC, SUBDOMINANT, DOMINANT),
    (TONIC, DOMINANT, SUBDOMINANT, TONIC),
)
OCTAVE = 7  # in steps

NOTES_SECONDS = (3.6, 5.4)  # of whole measures, where measures are short enough

# Orders of the tones of a chord: root, third, fifth and the root above.
ARPEGGIOS = ((0, 2, 4, 7), (7, 4, 2, 0), (0, 4, 2, 4), (0, 2, 4, 2))

# The first two notes of tunes and riffs: a melody alone states its mode with them.
OPENINGS = ((TONIC, 2), (2, TONIC))
LOWEST_STEP, HIGHEST_STEP = -3, 9  # of a tune


def compose(row: dict) -> list[list[Note]]:
    """The notes of every instrument of a planned piece. One that plays chords accompanies itself if it is alone."""
    rng = row_rng(row, "notes")
    style = STYLES[row["style"]]
    beat = 60 / rng.uniform(*TEMPOS[row["tempo"]])
    measure = style.beats * beat
    fewest = max(2, math.ceil(NOTES_SECONDS[0] / measure))
    measures = rng.randint(fewest, max(fewest, math.floor(NOTES_SECONDS[1] / measure)))
    progression = rng.choice(PROGRESSIONS)
    roots = [progression[number % len(progression)] for number in range(measures)]
    if measures > 2:
        roots[-1] = TONIC

    pitch_class = rng.randrange(12)
    melodist, accompanist = INSTRUMENTS[row["instruments"][0]], INSTRUMENTS[row["instruments"][-1]]
    tones = MELODIES.get(row["style"], _tune)(style, roots, rng)
    melody = _notes(tones, beat, melodist, pitch_class, row["mode"], rng)
    if accompanist.role == "drums":
        return [melody, _drum_notes(style, measures, beat, rng)]
    if melodist is accompanist and melodist.role != "chords":
        return [melody]
    accompaniment = _notes(_accompaniment(style, roots, accompanist), beat, accompanist, pitch_class, row["mode"], rng)
    return [melody + accompaniment] if melodist is accompanist else [melody, accompaniment]


@dataclass(frozen=True)
class Tone:
    """A note of no instrument yet: place and length in beats, step of the scale from the tonic, velocity."""

    place: float
    beats: float
    step: int
    velocity: int


def _tune(style: Style, roots: list[int], rng: random.Random) -> list[Tone]:
    """A tune: chord tones on the measures, single steps and chord tones between them."""
    tones = []
    opening = list(rng.choice(OPENINGS))
    step = TONIC
    for number, root in enumerate(roots):
        place = number * style.beats
        for position, beats in enumerate(rng.choice(style.rhythms)):
            near = [tone for tone in _chord_tones(root) if abs(tone - step) <= 4]
            if opening:
                step = opening.pop(0)
            elif position == 0 or rng.random() < 0.4:
                step = rng.choice([tone for tone in near if tone != step])
            else:
                step = min(max(step + rng.choice((-1, 1)), LOWEST_STEP), HIGHEST_STEP)
            tones.append(Tone(place, beats * style.held, step, 105 if position == 0 else 88))
            place += beats
    return tones


def _arpeggio(style: Style, roots: list[int], rng: random.Random) -> list[Tone]:
    """The chords one tone after the other, in one order throughout the piece."""
    order = rng.choice(ARPEGGIOS)
    return _figures(style, roots, style.rhythms[0], [[root + offset for offset in order] for root in roots])


def _riff(style: Style, roots: list[int], rng: random.Random) -> list[Tone]:
    """One figure that every measure repeats on its chord."""
    rhythm = rng.choice(style.rhythms)
    figure = [*rng.choice(OPENINGS), *(rng.choice((-1, 0, 1, 2, 4)) for _ in rhythm[2:])]
    return _figures(style, roots, rhythm, [[root + offset for offset in figure] for root in roots])


def _scale_run(style: Style, roots: list[int], rng: random.Random) -> list[Tone]:
    """The scale up to the octave of the tonic and down again, beginning below or above."""
    steps = [*range(OCTAVE), *range(OCTAVE, 0, -1)]
    first = rng.choice((0, OCTAVE))
    rhythm = style.rhythms[0]
    walk = [steps[(first + number) % len(steps)] for number in range(len(rhythm) * len(roots))]
    return _figures(style, roots, rhythm, [walk[at : at + len(rhythm)] for at in range(0, len(walk), len(rhythm))])


MELODIES = {"arpeggio": _arpeggio, "riff": _riff, "scale run": _scale_run}


def _figures(style: Style, roots: list[int], rhythm: tuple[float, ...], figures: list[list[int]]) -> list[Tone]:
    """A figure of steps for each measure, all in one rhythm."""
    tones = []
    for number, figure in enumerate(figures):
        place = number * style.beats
        for position, (beats, step) in enumerate(zip(rhythm, figure)):
            tones.append(Tone(place, beats * style.held, step, 105 if position == 0 else 88))
            place += beats
    return tones


def _accompaniment(style: Style, roots: list[int], instrument: Instrument) -> list[Tone]:
    """Roots and triads of the style, an octave below the melody's place in the register."""
    if instrument.role == "bass":
        # one note at a time, in its own register: of a triad the fifth, or the root where no roots are played
        octave, triad = 0, ((4,) if style.roots else (0,))
    else:
        octave, triad = -OCTAVE, (0, 2, 4)
    return [
        Tone(number * style.beats + place, beats, root + octave + offset, velocity)
        for number, root in enumerate(roots)
        for parts, chord, velocity in ((style.roots, (0,), 100), (style.triads, triad, 80))
        for place, beats in parts
        for offset in chord
    ]


def _drum_notes(style: Style, measures: int, beat: float, rng: random.Random) -> list[Note]:
    return [
        Note((number * style.beats + place) * beat, 0.1, drum, velocity + rng.randint(-8, 8))
        for number in range(measures)
        for place, drum, velocity in style.drums
    ]


def _notes(
    tones: list[Tone], beat: float, instrument: Instrument, pitch_class: int, mode: str, rng: random.Random
) -> list[Note]:
    """Tones at a tempo (`beat` in seconds), in a key, and in the register of an instrument."""
    lowest_tonic = instrument.register - 6
    tonic = lowest_tonic + (pitch_class - lowest_tonic) % 12
    notes = []
    for tone in tones:
        octave, step = divmod(tone.step, OCTAVE)
        key = tonic + 12 * octave + SCALES[mode][step]
        notes.append(Note(tone.place * beat, tone.beats * beat, key, tone.velocity + rng.randint(-8, 8)))
    return notes


def _chord_tones(root: int) -> list[int]:
    """Steps of the melody's range that belong to the chord on `root`."""
    return [step for step in range(LOWEST_STEP, HIGHEST_STEP + 1) if (step - root) % OCTAVE in (0, 2, 4)]
