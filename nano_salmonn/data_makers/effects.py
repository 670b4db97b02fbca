# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Labelled sound effects: what is in which file of which Debian package, and which files are for which split.

`effects.json` names classes of sounds. A class has a label ("dog"), a clause that says what is heard and contains the
label ("a dog barks"), and patterns of files by package. Classes that listeners do not tell apart name an event instead,
with a clause of its own: a snare drum and a tom-tom are both a drum. A file is called by its source, `package/path`; a
file in an archive of `ARCHIVES` by the path of the archive and its path therein,
`package/memory-sound.rcc/resource/bark.ogg`.

The recordings of the patterns in `files` are split for training, validation and testing. Those of `training_files`,
which a class may have too, are for training only. They change nothing in the other splits: those that seem to be the
same recordings as files for validation or testing of the event are left out.
"""

import hashlib
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import soundfile
import soxr

from data_salmonn.audio import SAMPLING_RATE
from data_salmonn.files import write_json
from nano_salmonn.data_makers.clonk_groups import clonk_group
from nano_salmonn.data_makers.debian import DebianPackage, fetch_package, package_version
from nano_salmonn.data_makers.qt_resources import qt_resources
from nano_salmonn.data_wheels import cache_folder


logger = logging.getLogger(__name__)

CATALOGUE = Path(__file__).parent / "effects.json"
SPLITS = ("train", "validation", "test")
PACKAGES = (
    DebianPackage(
        "0ad-data",
        "sounds of animals, trades, weapons and weather",
        "CC-BY-SA-3.0",
        "Wildfire Games",
        archive="usr/share/games/0ad/mods/public/public.zip",
        folder="audio",
    ),
    DebianPackage(
        "flare-game", "sounds of places, steps and monsters", "CC-BY-SA-3.0", "Clint Bellanger and the Flare team"
    ),
    DebianPackage(
        "gcompris-qt-data", "sounds of two activities", "GPL-3+, Free Art License 1.2", "GCompris developers"
    ),
    DebianPackage(
        "hydrogen-drumkits",
        "drums and percussion",
        "GPL-2, GPL-2+, CC-BY-SA-3.0",
        "Artemiy Pavlov, Emiliano Grilli, Marcos Guglielmetti, Vladimir Sadovnikov, Alexander Belokurov, Jim Harney, "
        "Glen MacArthur",
    ),
    DebianPackage("lincity-ng-data", "sounds of a town", "GPL-2+, CC-BY-SA-2.0", "LinCity-NG team"),
    DebianPackage("lmms-common", "drums and effects", "GPL-2+", "LMMS developers"),
    DebianPackage("megaglest-data", "sounds of units and landscapes", "CC-BY-SA-3.0", "Glest and MegaGlest teams"),
    DebianPackage(
        "minetest-data", "sounds of Minetest Game", "CC-BY-SA-3.0, CC-BY-3.0, CC0, MIT", "Minetest developers"
    ),
    DebianPackage("sonic-pi-samples", "samples", "CC0", "authors on freesound.org, collected by Sam Aaron"),
    DebianPackage("tuxpaint-stamps-default", "sounds of stamps", "GPL-2", "Bill Kendrick and contributors"),
    DebianPackage("wesnoth-1.16-data", "sounds of units and landscapes", "GPL-2+", "Battle for Wesnoth developers"),
    DebianPackage("widelands-data", "sounds of animals and trades", "GPL-2+", "Widelands Development Team"),
    DebianPackage("7kaa-data", "sounds of weather", "GPL-2+", "Enlight Software and Jesse Allen"),
    DebianPackage(
        "ardentryst",
        "sounds of steps and weather",
        "CC-BY-SA-3.0",
        "Kendra Pietruszewski, Amy Dunwoodie, Jordan Trudgett and authors on freesound.org",
    ),
    DebianPackage("hydrogen-data", "hand claps", "GPL-2+", "ArtemioLabs, Glen MacArthur, Sebastian Moors"),
    DebianPackage("lugaru-data", "sounds of fights, steps and animals", "CC-BY-SA-3.0", "Wolfire Games"),
    DebianPackage("minetest-mod-homedecor", "sounds of a home", "CC-BY-SA-4.0", "Vanessa Ezekowitz"),
    DebianPackage(
        "openclonk-data",
        "sounds of nature, tools, weapons and people",
        "CC-BY-3.0, CC0",
        "OpenClonk contributors and authors on freesound.org, who are named in its Sound.ocg/authors.txt",
    ),
    DebianPackage(
        "pekka-kana-2-data",
        "sounds of animals and robots",
        "BSD-2-Clause",
        "Janne Kivilahti, Samuli Tuomola, Danilo Lemos, Carlos Donizete Froes",
    ),
    DebianPackage(
        "scorched3d-data",
        "sounds of weather, animals and explosions",
        "GPL-2+, CC-BY-SA-3.0",
        "Gavin Camp, Apocalypse mod team",
    ),
    DebianPackage(
        "scratch",
        "sounds of animals, people and things",
        "CC-BY-SA-3.0",
        "Massachusetts Institute of Technology",
    ),
    DebianPackage(
        "ufoai-sound",
        "sounds of steps, doors, weapons, fire and people",
        "GPL-2+, GPL-2, CC-BY-3.0, CC-BY-SA-3.0",
        "UFO: Alien Invasion, OpenArena and Nexuiz contributors",
        archive="usr/share/games/ufoai/base/0snd.pk3",
        folder="sound",
    ),
    DebianPackage(
        "triplea", "sounds of horses, weapons, tools and robots", "GPL-2+", "Sean Bridges and the TripleA developers"
    ),
    DebianPackage("caveexpress-data", "sounds of water and people", "GPL-3+", "Martin Gerhardy"),
    DebianPackage("brainparty-data", "sounds of a cat and of glass", "GPL-3+", "Paul Hudson"),
    DebianPackage("micropolis-data", "sounds of ducks", "GPL-3+", "Electronic Arts"),
    DebianPackage("trophy-data", "a dog", "GPL-2", "Andrew Mustun"),
    DebianPackage("xemacs21-basesupport", "a dog and a cat", "GPL", "XEmacs developers"),
    DebianPackage(
        "btanks-data",
        "sounds of monsters, people, fire and a cow",
        "GPL-2, with an exception",
        "Vladimir Menshakov and the Battle Tanks team",
    ),
    DebianPackage("crossfire-client", "a gong and a whoosh", "GPL-2+", "Crossfire Development team"),
    DebianPackage(
        "freedink-data",
        "sounds of people and birds",
        "GPL-2+, WTFPL",
        "Battle for Wesnoth developers, Maria and Fernando Carmona Varo",
    ),
    DebianPackage("searchandrescue-data", "sounds of thunder, water and a door", "GPL", "WolfPack Entertainment"),
    DebianPackage(
        "plee-the-bear-data",
        "sounds of rain, water and an animal",
        "CC-BY-SA-3.0",
        "Julien Jorge, Sébastien Angibaud and the Plee the Bear team",
    ),
    DebianPackage("chuck-data", "a hand clap", "GPL-2+", "Ge Wang and Perry R. Cook"),
    DebianPackage(
        "python-kivy-examples",
        "hand claps",
        "Sampling Plus 1.0",
        "sweet_trip of freesound.org, collected by the Kivy team",
    ),
    DebianPackage("madbomber-data", "splashes", "GPL-2", "William Kendrick"),
    DebianPackage(
        "libreoffice-common", "a horse, a gong and a train", "MPL-2.0", "Oracle and the LibreOffice contributors"
    ),
    DebianPackage(
        "unknown-horizons", "sounds of trades and sheep", "CC-BY-SA-3.0", "hazure and the Unknown Horizons team"
    ),
    DebianPackage("supertux-data", "sounds of weather, water, a saw and a monster", "GPL-3+", "SuperTux developers"),
    DebianPackage("freedroidrpg-data", "sounds of swords and glass", "GPL-2+", "FreedroidRPG developers"),
    DebianPackage("warmux-data", "an anvil and cries", "GPL-2+", "WarMUX contributors"),
    DebianPackage("cube2-data", "a splash", "CC-BY-3.0", "the Apricot project"),
)
SUFFIXES = (".wav", ".ogg", ".flac", ".aiff", ".mp3")

LONGEST = 20.0  # seconds of a file that are read
LOWEST = 40.0  # Hz
SILENCE = 1e-3  # a file whose largest sample is lower is dropped
TRIM_DB = 45.0  # the ends of a file are cut where they are so far below its loudest frame
FRAME = SAMPLING_RATE // 100

TEST_SHARE, VALIDATION_SHARE = 0.22, 0.08
SAME_RECORDING = 0.7  # correlation
CORRELATION_RATE = 4_000


@dataclass(frozen=True)
class Effect:
    """
    A class of sounds with the sources of each split. Classes of one or two recordings have them all in `train`, where
    the files for training only are the last.

    Args:
        label: The class, which BEATs learns.
        event: What captions and questions call it: the label, or that of several classes together.
        clause: What is heard, with the event in it.
    """

    label: str
    event: str
    clause: str
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


@cache
def load_effects() -> tuple[Effect, ...]:
    """
    The classes of the catalogue, with the files that are there. Fetches the packages that are not in the cache.

    To find recordings that are the same takes minutes: what was found is kept in the cache, for these packages and this
    catalogue.
    """
    file = cache_folder() / f"effects-{_digest()}.json"
    if file.is_file():
        return tuple(
            Effect(**{name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()})
            for entry in json.loads(file.read_text(encoding="utf-8"))
        )
    effects = find_effects()
    write_json(file, [asdict(effect) for effect in effects])
    return effects


def _digest() -> str:
    """What the splits of the catalogue depend on: its text, the code that reads it, and the packages."""
    parts = [CATALOGUE.read_bytes(), Path(__file__).read_bytes()]
    parts += [package_version(package)["sha256"].encode() for package in PACKAGES]
    return hashlib.sha256(b"\n".join(parts)).hexdigest()[:16]


def find_effects() -> tuple[Effect, ...]:
    """As [`load_effects`], looked for anew."""
    catalogue = json.loads(CATALOGUE.read_text(encoding="utf-8"))
    listed = {package.name: list_sources(package, catalogue["roots"][package.name]) for package in PACKAGES}

    def find_sources(files: Mapping[str, Sequence[str]]) -> list[str]:
        return [
            source
            for package, patterns in files.items()
            for source in match_sources(listed[package], f"{package}/{catalogue['roots'][package]}", patterns)
        ]

    effects = []
    for label, entry in catalogue["classes"].items():
        parts = split_sources(group_recordings(drop_useless(find_sources(entry["files"]))))
        event = entry.get("event", label)
        effects.append(Effect(label, event, catalogue["events"].get(event) or entry["clause"], **parts))
    extra = {
        label: find_sources(entry["training_files"])
        for label, entry in catalogue["classes"].items()
        if "training_files" in entry
    }
    return add_training_files(effects, extra)


def add_training_files(effects: Sequence[Effect], extra: Mapping[str, Sequence[str]]) -> tuple[Effect, ...]:
    """
    `effects` with the sources `extra`, by label, at the end of `train`.

    Left out are copies of others of the event, and what is in a group with a recording for validation or testing.
    """
    effects = list(effects)
    for number, effect in enumerate(effects):
        if effect.label not in extra:
            continue
        siblings = [other for other in effects if other.event == effect.event]
        held_out = [source for other in siblings for source in (*other.validation, *other.test)]
        known = [*held_out, *(source for other in siblings for source in other.train)]
        new = [source for source in drop_useless([*known, *extra[effect.label]]) if source not in known]
        heard = {
            source
            for group in group_recordings([*held_out, *new])
            if not set(group).isdisjoint(held_out)
            for source in group
        }
        for source in new:
            if source in heard:
                logger.info("%s is left out: it seems to be a recording for validation or testing", source)
        train = (*effect.train, *(source for source in new if source not in heard))
        effects[number] = replace(effect, train=train)
    return tuple(effects)


def list_sources(package: DebianPackage, root: str) -> list[str]:
    """The sources of a package below the folder `root`, sorted."""
    folder = fetch_package(package)
    sources = []
    for file in sorted((folder / root).rglob("*")):
        source = f"{package.name}/{file.relative_to(folder).as_posix()}"
        if file.suffix in ARCHIVES and file.is_file():
            sources += [f"{source}/{name}" for name in read_archive(file) if name.endswith(SUFFIXES)]
        elif file.suffix.lower() in SUFFIXES:
            sources.append(source)
    return sources


def match_sources(sources: Sequence[str], root: str, patterns: Sequence[str]) -> list[str]:
    """The sources below `root` that match any of `patterns`. Raises `ValueError` if a pattern matches none."""
    found = set()
    for pattern in patterns:
        matches = [source for source in sources if fnmatchcase(source, f"{root}/{pattern}")]
        if not matches:
            raise ValueError(f"{CATALOGUE.name}: nothing in {root} matches the pattern {pattern!r}")
        found.update(matches)
    return sorted(found)


def read_bytes(source: str) -> bytes:
    """The file of a source."""
    name, path = source.split("/", maxsplit=1)
    folder = fetch_package(next(package for package in PACKAGES if package.name == name))
    for suffix in ARCHIVES:
        archive, in_archive, member = path.partition(f"{suffix}/")
        if in_archive:
            return read_archive(folder / f"{archive}{suffix}")[member]
    return (folder / path).read_bytes()


@lru_cache(maxsize=1)
def read_archive(file: Path) -> dict[str, bytes]:
    """The files in an archive by their paths."""
    return ARCHIVES[file.suffix](file.read_bytes())


ARCHIVES = {".rcc": qt_resources, ".ocg": clonk_group}


@cache
def read_effect(source: str) -> np.ndarray:
    """Samples `(samples,)` of a source, 16 kHz, float32, without rumble and silent ends, read once a process."""
    with soundfile.SoundFile(io.BytesIO(read_bytes(source))) as file:
        samples = file.read(round(LONGEST * file.samplerate), dtype="float32", always_2d=True).mean(axis=1)
        samples = soxr.resample(samples, file.samplerate, SAMPLING_RATE)
    return trim(remove_rumble(samples))


def remove_rumble(samples: np.ndarray) -> np.ndarray:
    """Lowers what is below `LOWEST` Hz, of which some files have more than of their sound."""
    power = np.fft.rfftfreq(len(samples), 1 / SAMPLING_RATE) ** 2
    spectrum = np.fft.rfft(samples) * power / (power + LOWEST**2)  # no steep edge: it would ring before and after
    return np.fft.irfft(spectrum, len(samples)).astype(np.float32)


def trim(samples: np.ndarray) -> np.ndarray:
    """Cuts quiet frames at both ends."""
    levels = frame_levels(samples)
    loud = np.flatnonzero(levels > levels.max(initial=0) * 10 ** (-TRIM_DB / 20))
    return samples[loud[0] * FRAME : (loud[-1] + 1) * FRAME] if len(loud) else samples[:0]


def frame_levels(samples: np.ndarray) -> np.ndarray:
    """Root mean squares `(frames,)` of frames of 10 ms; the last one is filled with zeros."""
    padded = np.pad(samples, (0, -len(samples) % FRAME))
    return np.sqrt(np.mean(padded.reshape(-1, FRAME) ** 2, axis=1))


def drop_useless(sources: Sequence[str]) -> list[str]:
    """Sources without those that are silent and without copies of others."""
    kept, digests = [], set()
    for source in sources:
        digest = hashlib.sha256(read_bytes(source)).digest()
        if digest in digests:
            logger.info("%s is left out: it is a copy", source)
        elif np.abs(read_effect(source)).max(initial=0) < SILENCE:
            logger.info("%s is left out: it is silent", source)
        else:
            kept.append(source)
        digests.add(digest)
    return kept


def group_recordings(sources: Sequence[str]) -> list[list[str]]:
    """
    Groups of sources that seem to be the same recording: other cuts, other loudness, hits of the same drum.

    Two of them are if the largest value of their normalised cross-correlation is at least `SAME_RECORDING`.
    """
    waves = [soxr.resample(read_effect(source), SAMPLING_RATE, CORRELATION_RATE) for source in sources]
    waves = [wave / (np.linalg.norm(wave) + 1e-9) for wave in waves]
    size = 1 << (2 * max(map(len, waves), default=1)).bit_length()
    spectra = [np.fft.rfft(wave, size) for wave in waves]
    group_of = list(range(len(sources)))
    for second in range(len(sources)):
        for first in range(second):
            if group_of[first] == group_of[second]:
                continue
            correlation = np.fft.irfft(spectra[first] * spectra[second].conj(), size)
            if np.abs(correlation).max() >= SAME_RECORDING:
                group_of = [group_of[first] if group == group_of[second] else group for group in group_of]
    return [[source for source, of in zip(sources, group_of) if of == group] for group in sorted(set(group_of))]


def split_sources(groups: Sequence[Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """
    Gives each group to a split: small groups to testing and validation first, else in an order by hash.

    Of three groups one is for testing, of four another one for validation; fewer are all for training.
    """
    groups = sorted(groups, key=lambda group: (len(group), hashlib.sha256(group[0].encode()).hexdigest()))
    num_test = max(1, round(TEST_SHARE * len(groups))) if len(groups) >= 3 else 0
    num_validation = max(1, round(VALIDATION_SHARE * len(groups))) if len(groups) >= 4 else 0
    parts = {
        "test": groups[:num_test],
        "validation": groups[num_test : num_test + num_validation],
        "train": groups[num_test + num_validation :],
    }
    return {split: tuple(source for group in part for source in group) for split, part in parts.items()}
