# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Sentences of every day: what people ask, answer and ask for.

They come from dialogues of two games, a corpus of small talk, and patterns of this file. Like all sentences they are lower
case without punctuation; see [`texts`].
"""

import html
import random
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml

from nano_salmonn.data_makers.debian import DebianPackage, OtherPackage, fetch_package
from nano_salmonn.data_makers.texts import Sentence, read_test_phrases, shares_phrase, split_words
from nano_salmonn.data_wheels import DataWheel, fetch_wheel


ROLE_PLAY = DebianPackage("freedroidrpg-data", "dialogues", "GPL-2+", "FreedroidRPG developers")
FISH = DebianPackage("fillets-ng-data", "dialogues", "GPL-2+", "ALTAR interactive and the Fish Fillets NG team")
SMALL_TALK = DataWheel(
    "chatterbot-corpus==1.3.3",
    "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
    "chatterbot_corpus/data/english/",
)
PACKAGES = (
    ROLE_PLAY,
    FISH,
    OtherPackage("chatterbot-corpus", "1.3.3", "small talk", "BSD-3-Clause", "Gunther Cox and contributors"),
)

MAX_WORDS = 14
MIN_OCCURRENCES = 4  # of each word, in all sentences together
PATTERN_SENTENCES = 6_000

_GAME_TEXT = re.compile(r'_"([^"\\]{4,300})"')
_FISH_TEXT = re.compile(r'dialogId\("[^"]*", "[^"]*",\s*"([^"\\]{4,300})"')
_CLAUSE_ENDS = re.compile(r"[.;:?!()\[\]\"“”…\n]|--|—| - ")


def read_everyday(others: Iterable[Sentence]) -> list[Sentence]:
    """
    Every sentence of every day that can be used, each once, in a fixed order. Words must occur often enough in these and in
    `others` together.
    """
    tested = read_test_phrases()
    found: dict[str, None] = {}
    for text in (*_read_role_play(), *_read_fish(), *_read_small_talk()):
        for clause in _CLAUSE_ENDS.split(text):
            words = split_words(clause)
            if 0 < len(words) <= MAX_WORDS:
                found.setdefault(" ".join(words), None)
    for text in make_patterns(PATTERN_SENTENCES, random.Random("patterns")):
        found.setdefault(text, None)
    counts = Counter(word for text in found for word in text.split())
    counts += Counter(word for sentence in others for word in sentence.text.split())
    return [
        Sentence(text)
        for text in found
        if all(counts[word] >= MIN_OCCURRENCES for word in text.split()) and not shares_phrase(text, tested)
    ]


def _read_role_play() -> Iterator[str]:
    folder = fetch_package(ROLE_PLAY) / "usr/share/freedroidrpg"
    for file in sorted(folder.rglob("*.lua")):
        yield from _GAME_TEXT.findall(_read_text(file))


def _read_fish() -> Iterator[str]:
    folder = fetch_package(FISH) / "usr/share/games/fillets-ng/script"
    for file in sorted(folder.rglob("dialogs_en.lua")):
        yield from _FISH_TEXT.findall(_read_text(file))


def _read_small_talk() -> Iterator[str]:
    with zipfile.ZipFile(fetch_wheel(SMALL_TALK)) as archive:
        for name in sorted(archive.namelist()):
            if name.startswith(SMALL_TALK.member) and name.endswith(".yml") and "coding" not in name:
                for conversation in yaml.safe_load(archive.read(name))["conversations"]:
                    yield from (text for text in conversation if isinstance(text, str))


def _read_text(file: Path) -> str:
    return html.unescape(file.read_text(encoding="utf-8", errors="replace"))


# ----------------------------------------------------------------------------------------------------------------------
# Patterns

_SLOTS = {
    "name": "mary|john|anna|peter|susan|david|laura|paul|emma|henry|alice|james|martha|robert|kate|george|tom|jack|sam|"
    "maria|daniel|sarah|michael|lisa|kevin|rachel|ben|sophie",
    "who": "my mother|my father|my sister|my brother|my friend|my boss|the teacher|our neighbour|the doctor|your wife|"
    "her husband|his son|the manager|a customer",
    "place": "the station|the market|the library|the office|the school|the park|the hotel|the hospital|the airport|"
    "the bank|the supermarket|the post office|the beach|the restaurant|the gym|the museum",
    "room": "the kitchen|the bedroom|the living room|the bathroom|the garage|the hall|the garden|the office",
    "thing": "the keys|the phone|the window|the door|the letter|the car|the book|the camera|the computer|the bag|"
    "the radio|the television|the bill|the map|the ticket|the umbrella",
    "food": "bread|soup|fish|cheese|rice|cake|chicken|salad|pizza|coffee|tea|milk|an apple|some water|a sandwich|eggs",
    "day": "monday|tuesday|wednesday|thursday|friday|saturday|sunday|today|tomorrow",
    "month": "january|february|march|april|may|june|july|august|september|october|november|december",
    "hour": "one|two|three|four|five|six|seven|eight|nine|ten|eleven|noon|half past two|a quarter to five|midnight",
    "number": "two|three|four|five|six|seven|eight|nine|ten|twelve|fifteen|twenty|thirty|forty|fifty|a hundred",
    "digit": "zero|one|two|three|four|five|six|seven|eight|nine",
    "unit": "minutes|hours|days|weeks|months|years|miles|dollars|pounds|euros|degrees",
    "city": "london|paris|rome|berlin|boston|dublin|vienna|madrid|york|oxford|chicago|new york|sydney|tokyo",
    "weather": "sunny|rainy|windy|cloudy|cold|warm|foggy|hot|stormy",
    "feeling": "tired|happy|hungry|sick|busy|late|ready|worried|angry|bored|sorry|sure|fine|afraid|surprised",
    "adjective": "good|bad|new|old|big|small|cheap|expensive|beautiful|strange|difficult|easy|important|wonderful",
    "verb": "go home|take a walk|watch a film|play football|learn french|read a book|cook dinner|clean the house|"
    "call you back|wait here|try again|buy a car|write an email|listen to music|get some sleep|see the doctor",
    "color": "red|blue|green|yellow|white|black|brown|grey|orange|purple",
    "job": "a doctor|a teacher|a farmer|a painter|a driver|a lawyer|a cook|an engineer|a writer|a nurse|a student",
}
_PATTERNS = """
what time is it|what time does {place} open|what time do you get up|when does the train to {city} leave
how are you today|how was your {day}|how much is {food}|how much does {thing} cost|how long have you been waiting
how far is it to {place}|how old is your brother|how many people are coming on {day}|how do i get to {place}
where is {place}|where did you put {thing}|where do you live|where are you from|where can i buy {food}
who is that man over there|who told you about {name}|why are you so {feeling}|why didn't you call me
which one do you like better|what is your name|what did you say|what are you doing this evening|what happened to {name}
what would you like to eat|what's the weather like in {city}|what's wrong with {thing}|what do you think of {city}
can you help me with {thing}|can you open {thing} please|can i have {food} please|could you speak more slowly
could you tell me the way to {place}|could i have the bill please|would you like some {food}|do you want to {verb}
do you know {name}|do you like {food}|did you see {thing}|have you seen {who}|are you {feeling}|is there {food} in {room}
is {name} at home|will you be at {place} on {day}|shall we {verb}|may i use your phone|does {name} speak english
please turn off the light in {room}|please close {thing}|please give me {thing}|please call {name} at {hour}
turn on the light in {room}|turn the music down|set an alarm for {hour}|set a timer for {number} minutes
remind me to call {who} on {day}|play some music in {room}|stop the music|add {food} to the list|call {name}
send a message to {name}|wake me up at {hour}|open {thing}|close the door|sit down please|wait a moment|come in|hurry up
i don't know|i don't understand|i have no idea|i think so|i hope so|i'm afraid not|i'm not sure|i can't hear you
i am {feeling}|i'm very {feeling} today|i was {feeling} because {name} was late|i'd like {food}|i'd like to {verb}
i have to {verb}|i want to {verb} on {day}|i'm going to {place}|i went to {place} with {name}|i need {thing}
i lost {thing} at {place}|i forgot {thing}|i met {who} at {place} on {day}|i will call you at {hour}
i live in {city} but i work in {city}|i work at {place}|i'm {job}|i've been here for {number} {unit}
i bought {number} books for {number} dollars|my phone number is {digit} {digit} {digit} {digit} {digit} {digit}
the number is {digit} {digit} {digit} {digit}|my birthday is in {month}|my name is {name}|{name} is {job}
{name} and {name} are at {place}|{name} wants to {verb}|{name} said it was {adjective}|{who} is {feeling}
{who} lives in {city}|{who} bought a {color} car|{who} will be back in {number} {unit}|we are going to {city} in {month}
we had {food} for dinner|we should {verb}|we'll meet at {hour} at {place}|let's {verb}|let's go to {place} on {day}
it is {weather} today|it was {weather} in {city}|it will be {weather} on {day}|it takes {number} {unit} to get there
it's {hour} o'clock|it's {adjective} isn't it|that's {adjective}|that is a very {adjective} question|it costs {number} {unit}
there is {food} on the table|there are {number} people in {room}|there's someone at the door|the {color} one is mine
the meeting is on {day} at {hour}|the bus leaves at {hour}|the film starts at {hour}|the store is closed on {day}
{thing} is broken|{thing} is in {room}|{thing} is {color}|the weather is {adjective}|the food was {adjective}
yes|no|yes please|no thank you|thank you|thank you very much|thanks a lot|you're welcome|excuse me|i'm sorry|sorry
hello|hi|good morning|good afternoon|good evening|good night|goodbye|see you later|see you on {day}|take care
of course|maybe|all right|okay|never mind|no problem|not yet|very well|just a minute|that's right|i agree|good luck
how do you do|nice to meet you|have a nice day|happy birthday|congratulations|be careful|help|stop|go on|look at that
"""


def make_patterns(count: int, rng: random.Random) -> list[str]:
    """At most `count` different sentences of the patterns above, in random order."""
    patterns = [pattern.strip() for line in _PATTERNS.split("\n") for pattern in line.split("|") if pattern.strip()]
    slots = {slot: words.split("|") for slot, words in _SLOTS.items()}
    found: dict[str, None] = {}
    for number in range(4 * count):
        if len(found) == count:
            break
        pattern = patterns[number % len(patterns)]
        found.setdefault(re.sub(r"\{(\w+)\}", lambda slot: rng.choice(slots[slot.group(1)]), pattern), None)
    return list(found)
