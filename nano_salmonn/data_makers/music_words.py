# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""What is said of a made piece of music: a caption, and questions with their answers."""

import random

from nano_salmonn.data_makers.music_facts import INSTRUMENTS, Instrument, with_article


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


def draw_caption(players: list[Instrument], tempo: str, mode: str, style: str, rng: random.Random) -> str:
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


def draw_questions(players: list[Instrument], tempo: str, mode: str, rng: random.Random) -> list[dict[str, str]]:
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
