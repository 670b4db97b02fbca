"""A saved folder in a process where this project cannot be imported: Auto classes, pipelines, second generations."""

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from transformers import pipeline
from transformers.testing_utils import CaptureLogger
from transformers.utils import logging

import salmonn_transformers
from feature_extraction_beats import BeatsFeatureExtractor
from modeling_beats import BeatsForAudioClassification
from modeling_salmonn import SalmonnForConditionalGeneration
from processing_salmonn import SalmonnProcessor
from tiny_salmonn import noise, save_with_adapter


ROOT = Path(__file__).parents[2]
FLAT_FILES = {
    "adapter_salmonn.py",
    "audio_encoder_salmonn.py",
    "audio_reading_salmonn.py",
    "base_weights_salmonn.py",
    "chat_template_salmonn.py",
    "configuration_beats.py",
    "configuration_salmonn.py",
    "connectors_salmonn.py",
    "feature_extraction_beats.py",
    "feature_extraction_salmonn.py",
    "generation_salmonn.py",
    "input_checks_salmonn.py",
    "loops_salmonn.py",
    "modeling_beats.py",
    "modeling_salmonn.py",
    "processing_salmonn.py",
    "sharing_salmonn.py",
}

# Those that say what of them is public, and one that no checkpoint needs.
EXPORTING = [
    stem
    for name in (*sorted(FLAT_FILES), "session_salmonn.py")
    if hasattr(import_module(stem := name.removesuffix(".py")), "__all__")
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared") / "salmonn"
    save_with_adapter(folder)
    return folder


def gaussian(seconds: int) -> np.ndarray:
    return np.random.default_rng(seconds).standard_normal(16000 * seconds).astype(np.float32) * 0.1


def run_elsewhere(script: str, *arguments, cwd) -> dict:
    """Runs a script where nothing of this project is importable; it prints its result as JSON in the last line."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    environment["HF_MODULES_CACHE"] = str(cwd / "modules")
    guard = "import importlib.util, sys\nassert importlib.util.find_spec('modeling_salmonn') is None, sys.path\n"
    # -S leaves out an editable install of this project; site-packages come back by hand
    packages = [path for path in sys.path if path.endswith("site-packages")]
    paths = f"import sys; sys.path += {packages!r}\n"
    command = [sys.executable, "-S", "-c", paths + guard + script, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1]) | {"log": done.stderr}


# One process for all: it takes longer to import what they need than to run them.
ELSEWHERE = """
import json
import numpy as np
from transformers import (
    AutoConfig, AutoModel, AutoModelForMultimodalLM, AutoModelForSpeechSeq2Seq, AutoProcessor, pipeline
)
folder, second, *marked = sys.argv[1:]
clip, long = (np.random.default_rng(n).standard_normal(16000 * n).astype(np.float32) * 0.1 for n in (2, 6))
transcribe = pipeline("automatic-speech-recognition", model=folder, trust_remote_code=True)
chat = pipeline("any-to-any", model=folder, trust_remote_code=True)
messages = [{"role": "user", "content": [{"type": "audio", "audio": clip}, {"type": "text", "text": "What?"}]}]
transcripts = [transcribe(clip)["text"], transcribe(long)["text"]]
chatted = chat(messages, return_full_text=False)[0]["generated_text"]
names = [
    type(auto.from_pretrained(folder, trust_remote_code=True)).__name__
    for auto in (AutoConfig, AutoModel, AutoModelForMultimodalLM, AutoModelForSpeechSeq2Seq, AutoProcessor)
]
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
inputs = processor(text="USER: <|audio|>\\nASSISTANT:", audio=clip, return_tensors="pt")
answers = []
for _ in range(2):
    model = AutoModelForMultimodalLM.from_pretrained(folder, trust_remote_code=True)
    answers.append(model.generate(**inputs, do_sample=False).tolist())
    model.save_pretrained(second)
    processor.save_pretrained(second)
    folder = second
for folder in marked:
    AutoConfig.from_pretrained(folder, trust_remote_code=True)
marks = [type(AutoConfig.from_pretrained(folder, trust_remote_code=True)).MARK for folder in marked]
results = {"names": names, "answers": answers, "marks": marks, "transcripts": transcripts, "chatted": chatted}
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def elsewhere(folder, tmp_path_factory):
    """What the script finds in a saved model, the same saved again, and two whose code is marked."""
    root = tmp_path_factory.mktemp("elsewhere")
    for name in ("one", "two"):
        save_with_adapter(root / name)
        path = root / name / "configuration_salmonn.py"
        path.write_text(
            path.read_text().replace('model_type = "salmonn"', f'model_type = "salmonn"\n    MARK = "{name}"')
        )
    return run_elsewhere(ELSEWHERE, folder, root / "second", root / "one", root / "two", cwd=root)


def test_saved_folders_carry_the_code(folder):
    assert {path.name for path in folder.glob("*.py")} == FLAT_FILES
    assert set(json.loads((folder / "config.json").read_text())["auto_map"]) == {
        "AutoConfig",
        "AutoModel",
        "AutoModelForMultimodalLM",
        "AutoModelForSpeechSeq2Seq",
    }


def test_auto_classes_with_remote_code(folder, elsewhere):
    assert elsewhere["names"] == [
        "SalmonnConfig",
        "SalmonnModel",
        "SalmonnForConditionalGeneration",
        "SalmonnForConditionalGeneration",
        "SalmonnProcessor",
    ]
    model, processor = (auto.from_pretrained(folder) for auto in (SalmonnForConditionalGeneration, SalmonnProcessor))
    inputs = processor(text="USER: <|audio|>\nASSISTANT:", audio=gaussian(2), return_tensors="pt")
    assert elsewhere["answers"] == [model.generate(**inputs, do_sample=False).tolist()] * 2


def test_each_checkpoint_runs_its_own_code(elsewhere):
    """Code that registered itself on import would run for the checkpoint that is loaded next."""
    assert elsewhere["marks"] == ["one", "two"]


def test_pipelines_with_remote_code(folder, elsewhere):
    transcribe = pipeline("automatic-speech-recognition", model=str(folder))
    assert elsewhere["transcripts"] == [transcribe(gaussian(seconds))["text"] for seconds in (2, 6)]
    assert elsewhere["chatted"]
    assert "not supported" not in elsewhere["log"] and "ERROR" not in elsewhere["log"]


def test_asr_pipeline(folder):
    with CaptureLogger(logging.get_logger("transformers")) as log:
        transcribe = pipeline("automatic-speech-recognition", model=str(folder))
        clips = [noise(2, 1), noise(3, 2)]
        singles = [transcribe(clip) for clip in clips]
        assert [set(single) for single in singles] == [{"text"}] * 2 and all(single["text"] for single in singles)
        assert transcribe(clips) == transcribe(clips, batch_size=2) == singles
        assert transcribe({"raw": clips[0], "sampling_rate": 16000}) == singles[0]
        long = noise(6, 3)
        assert transcribe([clips[0], long], batch_size=2) == [singles[0], transcribe(long)]
    assert "not supported" not in log.out


def test_transcripts_are_those_of_the_request(folder):
    model, processor = save_with_adapter(folder.parent / "again")
    clip = noise(6, 3)
    short, long = clip[:32000], clip
    inputs = processor.apply_transcription_request(short)
    answer = model.generate(**inputs, num_beams=5)[0, inputs["input_ids"].shape[1] :]
    pieces = model.generate(**processor(audio=long), num_beams=5)[0]
    transcribe = pipeline("automatic-speech-recognition", model=str(folder))
    for samples, tokens in ((short, answer), (long, pieces)):
        assert transcribe(samples)["text"] == processor.decode(tokens, skip_special_tokens=True)


def test_any_to_any_pipeline(folder):
    def chat(clip, text="What?"):
        return [{"role": "user", "content": [{"type": "audio", "audio": clip}, {"type": "text", "text": text}]}]

    with CaptureLogger(logging.get_logger("transformers")) as log:
        answer = pipeline("any-to-any", model=str(folder))
        chats = [
            chat(noise(2, 1)),
            chat(noise(33, 2)),
            [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        ]
        singles = [answer(messages, return_full_text=False)[0]["generated_text"] for messages in chats]
        assert all(singles)
        batch = answer(chats, return_full_text=False)
        assert [result[0]["generated_text"] for result in batch] == singles
        pair = answer([chats[0], chats[0]], batch_size=2, return_full_text=False)
        assert [result[0]["generated_text"] for result in pair] == singles[:1] * 2
        plain = answer(text="USER: <|audio|> What?\nASSISTANT:", audio=noise(2, 1), return_full_text=False)
        assert plain[0]["generated_text"]
        only_audio = answer([{"role": "user", "content": [{"type": "audio", "audio": noise(2, 1)}]}])
        assert only_audio[0]["generated_text"]
    assert "not supported" not in log.out


def test_speech_only_models_in_the_asr_pipeline(tmp_path):
    save_with_adapter(tmp_path, beats_config=None)
    transcribe = pipeline("automatic-speech-recognition", model=str(tmp_path))
    assert transcribe(noise(6))["text"] and transcribe([noise(1), noise(2)], batch_size=2)[1]["text"]


ONE_IMPORT = """
import sys

sys.path[:0] = sys.argv[2:]
import salmonn_transformers

heavy = [name for name in ("peft", "datasets", "jiwer", "matplotlib", "gradio", "conversion_salmonn") if name in sys.modules]
from transformers import (
    AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification, AutoModelForMultimodalLM,
    AutoModelForSpeechSeq2Seq, AutoProcessor, pipeline,
)

folder, beats = sys.argv[1] + "/salmonn", sys.argv[1] + "/beats"
loaded = [
    AutoConfig.from_pretrained(folder),
    *(auto.from_pretrained(folder) for auto in (AutoModel, AutoModelForMultimodalLM, AutoModelForSpeechSeq2Seq)),
    *(auto.from_pretrained(folder) for auto in (AutoProcessor, AutoFeatureExtractor)),
    AutoConfig.from_pretrained(beats),
    *(auto.from_pretrained(beats) for auto in (AutoModel, AutoModelForAudioClassification, AutoFeatureExtractor)),
    pipeline("automatic-speech-recognition", model=folder).model,
]
import json

print(json.dumps({"heavy": heavy, "classes": [f"{type(x).__module__}.{type(x).__name__}" for x in loaded]}))
"""


def test_one_import_registers_everything(tmp_path):
    """Folders without code load through every Auto class once the package is imported."""
    model, _ = save_with_adapter(tmp_path / "salmonn")
    beats = BeatsForAudioClassification(model.config.beats_config)
    beats.save_pretrained(tmp_path / "beats")
    BeatsFeatureExtractor(num_mel_bins=beats.config.num_mel_bins).save_pretrained(tmp_path / "beats")
    for file in [*tmp_path.glob("*/*.py"), *tmp_path.glob("*/*.json")]:
        if file.suffix == ".py":
            file.unlink()
        else:
            settings = json.loads(file.read_text())
            settings.pop("auto_map", None)
            file.write_text(json.dumps(settings))
    packages = [path for path in sys.path if path.endswith("site-packages")]
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path += {packages!r}\n{ONE_IMPORT}", tmp_path, ROOT],
        cwd=tmp_path, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["heavy"] == []
    assert result["classes"] == [
        "configuration_salmonn.SalmonnConfig",
        "modeling_salmonn.SalmonnModel",
        "modeling_salmonn.SalmonnForConditionalGeneration",
        "modeling_salmonn.SalmonnForConditionalGeneration",
        "processing_salmonn.SalmonnProcessor",
        "feature_extraction_salmonn.SalmonnFeatureExtractor",
        "configuration_beats.BeatsConfig",
        "modeling_beats.BeatsModel",
        "modeling_beats.BeatsForAudioClassification",
        "feature_extraction_beats.BeatsFeatureExtractor",
        "modeling_salmonn.SalmonnForConditionalGeneration",
    ]


def test_the_package_exports_what_its_files_do():
    for name in salmonn_transformers.__all__:
        assert getattr(salmonn_transformers, name).__module__.endswith(("_salmonn", "_beats"))
    names = {name for stem in EXPORTING for name in import_module(stem).__all__}
    assert set(salmonn_transformers.__all__) == names


def test_importing_prints_nothing(tmp_path):
    files = " ".join(["salmonn_transformers", *sorted(name.removesuffix(".py") for name in FLAT_FILES)])
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r}); [__import__(name) for name in {files!r}.split()]"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
