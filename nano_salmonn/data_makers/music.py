# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Short pieces of music with all that is known of them: instruments, tempo, mode and style, a caption, and questions.

    make_music("music/train", split="train", count=4000, seed=0)

A piece is a melody over a chord progression, for one instrument or for a melody and its accompaniment. The rules are
few, and each makes one fact audible: the tempo, because the note values of a style are the same at every tempo; the
mode, because both modes have the same progressions, tunes and riffs open with the tonic and its third, and arpeggios
and scales run through them; the style by its metre, rhythm and accompaniment.
"""

import math
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr

from data_salmonn.audio import SAMPLING_RATE
from nano_salmonn.data_makers.clips import row_rng, write_clips
from nano_salmonn.data_makers.soundfont import DRUM_KIT, Note, check_installed, play


SPLITS = ("train", "validation", "test")

TEMPOS = {"slow": (60, 75), "medium": (95, 115), "fast": (140, 180)}  # beats per minute, with gaps between the words

# Minor is the harmonic one: its chord on the fifth step is major, as in most minor pieces, so a mode is told by its
# third and sixth and not by a missing leading tone.
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 11)}

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
RING_SECONDS = 0.6  # in which the last note fades
MAX_SECONDS = 6.0
FADE_SECONDS = 0.1
PEAK_DB = (-12.0, -1.0)

DUO_PROBABILITY = 0.4
ACCOMPANIMENT_DB = -3.0  # level of the accompaniment, as heard, under the melody


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

# Orders of the tones of a chord: root, third, fifth and the root above.
ARPEGGIOS = ((0, 2, 4, 7), (7, 4, 2, 0), (0, 4, 2, 4), (0, 2, 4, 2))

# The first two notes of tunes and riffs: a melody alone states its mode with them.
OPENINGS = ((TONIC, 2), (2, TONIC))
LOWEST_STEP, HIGHEST_STEP = -3, 9  # of a tune

STRETCH = (0.97, 1.03)
SNR_DB = (25.0, 50.0)

# {piece} is "a slow waltz", {instruments} "a violin and drums".
CAPTIONS = (
    "{piece} played by {instruments}, in a {mode} key.",
    "{adjective} music played by {instruments}, in {mode}.",
    "{instruments} {play} {piece} in a {mode} key.",
    "{a_style} in {mode}, played at a {tempo} tempo by {instruments}.",
    "The music is {piece} for {instruments} in a {mode} key.",
    "{instruments} can be heard. The tempo is {tempo} and the key is {mode}.",
    "Music in a {mode} key at a {tempo} tempo, with {instruments}.",
)
# For one instrument whose name can stand before that of the style: "a slow piano waltz", not "a church bells waltz".
SOLO_CAPTIONS = (
    "{a_tempo} {label} {style} in a {mode} key.",
    "{a_tempo} piece for solo {label} in {mode}.",
    "Solo {label}: {piece} in {mode}.",
)

INSTRUMENT_QUESTIONS = (
    "Which instrument or instruments play?",
    "What is this music played on?",
    "Name every instrument that is heard.",
)
TEMPO_QUESTIONS = (
    "Is the tempo slow, medium or fast?",
    "How fast is the music: slow, medium or fast?",
    "What is the tempo, slow, medium or fast?",
)
MODE_QUESTIONS = (
    "Is the music in major or minor?",
    "Is the key major or minor?",
    "Which mode is the piece in, major or minor?",
)
PRESENCE_QUESTIONS = ("Can {instrument} be heard?", "Does the music have {instrument} in it?")


def make_music(folder: str | Path, split: str, count: int, seed: int = 0, workers: int | None = None) -> Path:
    """
    Makes `count` pieces of a split in `folder` and returns the path of its `clips.jsonl`.

    Args:
        folder: Of the split; see `clips.py` for what is in it. An interrupted run goes on where it was.
        split: "train", "validation" or "test". Each has pieces of its own; those of "train" are augmented.
        count: Number of clips.
        seed: Another seed gives other pieces.
        workers: Processes, all cores by default.

    Raises `ValueError` if `split` is unknown, `count` is not positive, `folder` belongs to another plan, FluidSynth is
    missing or the soundfont cannot be fetched.
    """
    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {', '.join(SPLITS)}, got {split!r}")
    if count < 1:
        raise ValueError(f"`count` must be at least 1, got {count}")
    check_installed()
    return write_clips(folder, plan_music(split, count, seed), render_piece, workers)


def plan_music(split: str, count: int, seed: int = 0) -> list[dict]:
    """The facts of the pieces of a split, without their samples."""
    return [
        _plan_piece({"id": f"music-{split}-{number:06d}", "seed": seed, "split": split}) for number in range(count)
    ]


def render_piece(row: dict) -> np.ndarray:
    """The samples `(samples,)` of a planned piece, 16 kHz."""
    parts = compose(row)
    seconds = max(note.start + note.seconds for part in parts for note in part) + RING_SECONDS
    samples = 0.0
    for label, notes, level in zip(row["instruments"], parts, (0.0, ACCOMPANIMENT_DB)):
        part = play(notes, INSTRUMENTS[label].program, min(seconds, MAX_SECONDS))
        # The instruments of a soundfont differ by 20 dB: as they are, one would drown the other.
        samples = samples + part * (10 ** (level / 20) / np.sqrt(np.mean(part**2)))

    rng = row_rng(row, "recording")
    if row["split"] == "train":
        samples = _augment(samples, rng)
    fade = round(FADE_SECONDS * SAMPLING_RATE)
    samples[-fade:] *= np.linspace(1, 0, fade)
    return samples * (10 ** (rng.uniform(*PEAK_DB) / 20) / np.abs(samples).max())


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


def with_article(phrase: str) -> str:
    """The phrase with its indefinite article, by its first letter, which is enough for the words of this file."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


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


def _augment(samples: np.ndarray, rng: random.Random) -> np.ndarray:
    """A slightly different pitch and speed, which leaves tempos far from each other, and noise."""
    samples = soxr.resample(samples, SAMPLING_RATE, SAMPLING_RATE * rng.uniform(*STRETCH))
    samples = samples[: round(MAX_SECONDS * SAMPLING_RATE)]
    noise = np.random.default_rng(rng.getrandbits(64)).standard_normal(len(samples))
    level = np.sqrt(np.mean(samples**2)) * 10 ** (-rng.uniform(*SNR_DB) / 20)
    return samples + noise * level


def _plan_piece(row: dict) -> dict:
    rng = row_rng(row, "plan")
    tempo = rng.choice(tuple(TEMPOS))
    mode = rng.choice(tuple(SCALES))
    players = _draw_instruments(rng)
    chords = any(player.role == "chords" for player in players) or len(players) == 2
    style = rng.choice(
        [name for name, style in STYLES.items() if tempo in style.tempos and (chords or not style.needs_chords)]
    )
    facts = {"instruments": [player.label for player in players], "tempo": tempo, "mode": mode, "style": style}
    return {
        **row,
        "kind": "music",
        **facts,
        "caption": _caption(players, tempo, mode, style, rng),
        "questions": _questions(players, tempo, mode, rng),
    }


def _draw_instruments(rng: random.Random) -> list[Instrument]:
    def one_of(*roles: str) -> Instrument:
        return rng.choice([instrument for instrument in INSTRUMENTS.values() if instrument.role in roles])

    if rng.random() >= DUO_PROBABILITY:
        return [one_of("chords", "line", "bass")]
    melodist = one_of("chords", "line")
    while (accompanist := one_of("chords", "bass", "drums")) is melodist:
        pass
    return [melodist, accompanist]


def _caption(players: list[Instrument], tempo: str, mode: str, style: str, rng: random.Random) -> str:
    adjective = "medium-tempo" if tempo == "medium" else tempo
    instruments = _phrase(players)
    words = {
        "piece": with_article(f"{adjective} {style}"),
        "instruments": instruments,
        "play": "play" if len(players) > 1 or players[0].plural else "plays",
        "a_tempo": with_article(adjective),
        "label": players[0].label,
        "tempo": tempo,
        "adjective": adjective,
        "mode": mode,
        "style": style,
        "a_style": with_article(style),
    }
    solo = len(players) == 1 and not players[0].plural
    caption = rng.choice(CAPTIONS + SOLO_CAPTIONS if solo else CAPTIONS).format(**words)
    return caption[0].upper() + caption[1:]


def _questions(players: list[Instrument], tempo: str, mode: str, rng: random.Random) -> list[dict[str, str]]:
    present = rng.random() < 0.5
    asked = rng.choice([player for player in INSTRUMENTS.values() if (player in players) == present])
    pairs = (
        (rng.choice(INSTRUMENT_QUESTIONS), _phrase(players)),
        (rng.choice(TEMPO_QUESTIONS), tempo),
        (rng.choice(MODE_QUESTIONS), mode),
        (rng.choice(PRESENCE_QUESTIONS).format(instrument=asked.phrase), "yes" if present else "no"),
    )
    return [{"question": question, "answer": f"{answer[0].upper()}{answer[1:]}."} for question, answer in pairs]


def _phrase(players: list[Instrument]) -> str:
    return " and ".join(player.phrase for player in players)
