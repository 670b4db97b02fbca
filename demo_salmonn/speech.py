# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
A spoken clip, made on the spot by eSpeak NG.

Its shared library comes in a wheel (`espeakng-loader`), so that no system package is needed; where that wheel is
missing, an `espeak-ng` on the PATH will do.
"""

import ctypes
import io
import shutil
import subprocess

import numpy as np
import soundfile
import soxr

from data_salmonn.extras import install


# From eSpeak's speak_lib.h
AUDIO_OUTPUT_SYNCHRONOUS = 2
POSITION_IS_CHARACTER = 1
TEXT_IS_UTF8 = 1

SynthCallback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def speak(text: str, sampling_rate: int = 16000, voice: str = "en-us") -> np.ndarray:
    """
    `text` spoken by `voice`: float32 samples of shape `(samples,)` in [-1, 1] at `sampling_rate`.

    Raises `ValueError` if there is no text, no such voice, or no eSpeak NG.
    """
    if not text.strip():
        raise ValueError("`text` must hold something to say, got none")
    try:
        import espeakng_loader
    except ImportError:
        samples, rate = _speak_with_program(text, voice)
    else:
        library, data = espeakng_loader.get_library_path(), espeakng_loader.get_data_path()
        samples, rate = _speak_with_library(text, voice, library, data)
    return soxr.resample(samples, rate, sampling_rate).astype(np.float32)


def _speak_with_library(text: str, voice: str, library_path: str, data_path: str) -> tuple[np.ndarray, int]:
    """Samples and sampling rate, through eSpeak's C interface."""
    espeak = ctypes.CDLL(library_path)
    rate = espeak.espeak_Initialize(AUDIO_OUTPUT_SYNCHRONOUS, 0, data_path.encode(), 0)
    if rate <= 0:
        raise ValueError(f"eSpeak NG cannot start with the data in {data_path}")
    if espeak.espeak_SetVoiceByName(voice.encode()) != 0:
        raise ValueError(f"`voice` {voice!r} is none of eSpeak NG's")
    chunks = []

    @SynthCallback
    def collect(samples, count, events):
        if samples and count > 0:
            chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    espeak.espeak_SetSynthCallback(collect)
    encoded = text.encode()
    size = ctypes.c_size_t(len(encoded) + 1)
    espeak.espeak_Synth(encoded, size, 0, POSITION_IS_CHARACTER, 0, TEXT_IS_UTF8, None, None)
    espeak.espeak_Synchronize()
    if not chunks:
        raise ValueError(f"eSpeak NG says nothing for {text!r}")
    return np.concatenate(chunks).astype(np.float32) / 2**15, rate


def _speak_with_program(text: str, voice: str) -> tuple[np.ndarray, int]:
    """Samples and sampling rate, from the `espeak-ng` program."""
    program = shutil.which("espeak-ng")
    if program is None:
        raise ValueError(f"no speech synthesiser: {install('demo')}, or install espeak-ng, or give a file")
    result = subprocess.run(
        [program, "-v", voice, "--stdin", "--stdout"], input=text.encode(), capture_output=True, check=False
    )
    if result.returncode != 0:
        raise ValueError(f"espeak-ng failed: {result.stderr.decode(errors='replace').strip()}")
    return soundfile.read(io.BytesIO(result.stdout), dtype="float32")
