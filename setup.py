# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Packaging of `salmonn-transformers`.

    pip install .                 the model, the `salmonn` command, conversion
    pip install -e ".[dev]"       what `make test` and `make check` use
    pip install ".[demo]"         what `make demo` uses
    pip install ".[web]"          the web page, `salmonn demo`

Everything about the package is here, but for the tools' settings in pyproject.toml, and what CITATION.cff says of the
place of the repository. RELEASING.md says how a release is made.

The flat files at the root are installed as single modules: exactly these files also travel inside every saved
checkpoint, so there is one copy of the model's code. The packages beside them are what one installs around the model.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py


ROOT = Path(__file__).resolve().parent
CHECKPOINT = ROOT / "checkpoints" / "salmonn-nano"

# The flat files of the model: all of them, and nothing else, have these endings.
MODEL_FILES = sorted(path.stem for ending in ("beats", "salmonn") for path in ROOT.glob(f"*_{ending}.py"))

INSTALL_REQUIRES = [
    "torch>=2.6",
    "transformers>=5.20,<6,!=5.24.0",  # 5.24.0 wants PEFT 0.22, which is not released yet
    "peft>=0.18",
    "accelerate>=1.1",
    "safetensors>=0.4.3",
    "huggingface_hub>=1.0",
    "jinja2>=3",  # chat templates
    "numpy>=1.24",
    "pyyaml>=6",
    "soundfile>=0.12",
    "soxr>=0.5",
    "tqdm>=4.60",
    # LLaMA tokenizers that are only a `tokenizer.model`, and LLMs in GGUF files: conversion needs these three.
    "sentencepiece>=0.2",
    "protobuf>=4",
    "gguf>=0.17",
]

EXTRAS = {
    "train": ["datasets>=5.0", "jiwer>=4.0", "matplotlib>=3.8", "pillow>=10", "tensorboard>=2.16"],
    "eval": [
        "datasets>=5.0",
        "evaluate>=0.4.3",
        "jiwer>=4.0",
        "jinja2>=3",
        "matplotlib>=3.8",
        "openai>=1.98",
        "pycocoevalcap>=1.2",  # METEOR and CIDEr, with their Java parts
        "rapidfuzz>=3.6",
        "rouge-score>=0.1.2",
        "sacrebleu[ja]>=2.4",
        "whisper-normalizer>=0.1",  # Whisper's table of English spellings
    ],
    # Made music; the library of FluidSynth itself is a package of the system.
    "music": ["pyfluidsynth>=1.3"],
    # Natural voices for made speech, and Praat, which makes other speakers of them. piper-tts is under the GPL: a tool that
    # is run here, of which nothing is in this package.
    "voices": [
        "hibari-tts>=0.2.1",
        "onnxruntime>=1.20",
        "piper-tts>=1.3",
        "praat-parselmouth>=0.4.5",
        "soundfile>=0.13",
    ],
    # The speech synthesiser of the demo, as a shared library inside a wheel: no system package is needed. Its player of
    # music is such a wheel too, but declares a dependency that needs a compiler: see the Makefile.
    "demo": ["datasets>=5.0", "espeakng-loader>=0.2.4"],
    # The web page, with the speech synthesiser of its example; and the browser's driver that tests it.
    "web": ["gradio>=6", "pillow>=10", "espeakng-loader>=0.2.4"],
    # Engines: `vllm serve` and `salmonn transcribe`. vLLM 0.33 is the first that takes Transformers 5.20.
    "vllm": ["vllm>=0.33", "starlette"],
    "ray": ["ray[data]>=2.40"],
    # `salmonn serve`
    "serve": ["fastapi", "starlette", "uvicorn", "python-multipart", "pydantic>=2", "openai>=1.98"],
    "web-test": ["playwright>=1.40"],
    # BEATs as ONNX files.
    "onnx": ["onnx>=1.17", "onnxscript>=0.3", "onnxruntime>=1.20"],
    # What runs examples/notebooks in a test.
    "notebooks": ["nbclient>=0.10", "nbformat>=5.10", "ipykernel>=6.29"],
    # The documentation as a site: its commands run in pages, its reference is made of docstrings.
    "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.5", "mkdocstrings[python]>=1.0", "markdown-exec>=1.10"],
    "dev": [
        "hypothesis>=6.100",
        "packaging>=25",
        "pytest>=8",
        "pytest-randomly>=3.15",
        "pytest-xdist>=3.5",
        "ruff>=0.12",
        "setuptools>=77",
        "transformers-mlinter>=0.1.5",
        # `transformers serve`, which its client in `eval` tests
        "fastapi",
        "uvicorn",
        "python-multipart",
        "pydantic>=2",
        "bitsandbytes>=0.45",
        "trl>=1.0",
    ],
}


def version() -> str:
    """The newest release named in CHANGELOG.md, so that the number is written once."""
    found = re.search(
        r"^## \[(\d+\.\d+\.\d+[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    if found is None:
        raise ValueError("CHANGELOG.md names no release: expected a line such as `## [0.1.0]`")
    return found.group(1)


def repository() -> str | None:
    """The address of the repository in CITATION.cff, if it says one."""
    found = re.search(
        r"^repository-code: *\"?(https://[^\s\"]+)", (ROOT / "CITATION.cff").read_text("utf-8"), re.MULTILINE
    )
    return found and found.group(1).rstrip("/")


def make_description(readme: str, home: str | None) -> str:
    """
    The README for a page that has none of the files beside it: links to them go to the repository `home`, or are plain
    text while there is none; notes for the tests are left out.
    """
    readme = re.sub(r"^<!--.*?-->\n", "", readme, flags=re.MULTILINE | re.DOTALL)
    link = r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)]+)\)"
    if home is None:
        return re.sub(link, lambda found: found[2], readme)
    return re.sub(
        link, lambda found: f"{found[1]}[{found[2]}]({home}/{'raw' if found[1] else 'blob'}/main/{found[3]})", readme
    )


class BuildWithCheckpoint(build_py):
    """A wheel carries the trained part of salmonn-nano inside `nano_salmonn`; in a clone it stands outside."""

    def run(self):
        super().run()
        if CHECKPOINT.is_dir() and not self.editable_mode:
            self.copy_tree(str(CHECKPOINT), str(Path(self.build_lib, "nano_salmonn", "checkpoint")))


setup(
    name="salmonn-transformers",
    version=version(),
    description="SALMONN, the audio language model, as a model for Hugging Face Transformers",
    long_description=make_description((ROOT / "README.md").read_text(encoding="utf-8"), repository()),
    long_description_content_type="text/markdown",
    author="The SALMONN for Transformers authors",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    keywords="audio speech language-model transformers salmonn beats",
    project_urls={
        "Paper": "https://arxiv.org/abs/2310.13289",
        **({"Source": repository(), "Changelog": f"{repository()}/blob/main/CHANGELOG.md"} if repository() else {}),
    },
    python_requires=">=3.11",
    py_modules=MODEL_FILES,
    packages=find_packages(include=["*_salmonn", "*_salmonn.*", "salmonn_transformers"]),
    package_data={
        "": ["py.typed"],
        "data_salmonn": ["prompts/*.json"],
        "demo_salmonn": ["web.css", "web.html", "space/*"],
        "training_salmonn": ["recipes/*.yaml"],
        "evaluation_salmonn": ["tasks/*.json", "judge_prompts/*.json", "templates/*.html"],
        "nano_salmonn": [
            "chain.yaml",
            "continue.yaml",
            "recipes/*.yaml",
            "beats_recipes/*.yaml",
            "data_makers/*.json",
            "report/*.md",
        ],
    },
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": ["salmonn = cli_salmonn.main:main"],
        # lmms-eval looks here for models that it does not have itself
        "lmms_eval.models": ["salmonn = evaluation_salmonn.lmms_eval_plugin:SALMONN"],
        # vLLM calls it in each of its processes
        "vllm.general_plugins": ["salmonn = serving_salmonn.vllm_plugin:register"],
    },
    cmdclass={"build_py": BuildWithCheckpoint},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Multimedia :: Sound/Audio :: Analysis",
        "Topic :: Multimedia :: Sound/Audio :: Speech",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
