"""Saved models and adapters on the Hub: what is uploaded, and what loads from a cache as `huggingface_hub` writes it."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import HfApi, ModelCard, constants
from transformers import AutoModelForMultimodalLM

from modeling_salmonn import SalmonnForConditionalGeneration
from tiny_salmonn import tiny_model, with_adapter


COMMIT = "a" * 40
CODE = {path.name for ending in ("beats", "salmonn") for path in Path(__file__).parents[2].glob(f"*_{ending}.py")}
ADAPTER = {"LICENSE.md", "README.md", "adapter_config.json", "adapter_model.safetensors"}
WHOLE = ADAPTER | CODE - {
    "audio_reading_salmonn.py",
    "chat_template_salmonn.py",
    "processing_salmonn.py",
    "feature_extraction_beats.py",
    "feature_extraction_salmonn.py",
    "session_salmonn.py",
}
WHOLE |= {"config.json", "generation_config.json", "model.safetensors"}


class Hub:
    """What is uploaded comes to lie in the cache, from where it is loaded offline."""

    def __init__(self, cache: Path):
        self.cache, self.uploads = cache, []

    def folder(self, repo_id: str) -> Path:
        return self.cache / f"models--{repo_id.replace('/', '--')}" / "snapshots" / COMMIT

    def create_repo(self, repo_id: str, **kwargs):
        (self.folder(repo_id).parents[1] / "refs").mkdir(parents=True, exist_ok=True)
        (self.folder(repo_id).parents[1] / "refs" / "main").write_text(COMMIT)
        self.folder(repo_id).mkdir(parents=True, exist_ok=True)
        return SimpleNamespace(repo_id=repo_id)

    def create_commit(self, repo_id: str, operations, **kwargs):
        for operation in operations:
            shutil.copy(operation.path_or_fileobj, self.folder(repo_id) / operation.path_in_repo)
        self.uploads.append((repo_id, {operation.path_in_repo for operation in operations}))

    def file_exists(self, repo_id: str, filename: str, **kwargs) -> bool:
        return (self.folder(repo_id) / filename).exists()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    hub = Hub(tmp_path / "cache")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub.cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for name in ("create_repo", "create_commit", "file_exists"):
        method = getattr(hub, name)
        monkeypatch.setattr(HfApi, name, lambda self, *args, _method=method, **kwargs: _method(*args, **kwargs))
    return hub


def logits(model, inputs) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**inputs).logits[..., :600]


def test_a_model_with_its_adapter(hub, config, inputs, tmp_path):
    model = with_adapter(tiny_model(config))
    expected = logits(model, inputs)
    model.save_pretrained(tmp_path / "folder", push_to_hub=True, repo_id="me/folder")
    model.push_to_hub("me/pushed", tags=["mine"])
    assert hub.uploads == [("me/folder", WHOLE), ("me/pushed", WHOLE)]
    for repo_id in ("me/folder", "me/pushed"):
        settings = json.loads((hub.folder(repo_id) / "adapter_config.json").read_text())
        assert settings["base_model_name_or_path"] == repo_id
        for auto in (AutoModelForMultimodalLM, SalmonnForConditionalGeneration):
            torch.testing.assert_close(logits(auto.from_pretrained(repo_id, cache_dir=hub.cache), inputs), expected)
    assert "mine" in ModelCard.load(hub.folder("me/pushed") / "README.md").data.tags


def test_a_folder_that_was_uploaded_as_it_is(hub, config, inputs, tmp_path):
    """No place of the machine that saved it is in it, and none is needed."""
    tiny_model(config).save_pretrained(tmp_path / "base")
    model = with_adapter(SalmonnForConditionalGeneration.from_pretrained(tmp_path / "base"))
    expected = logits(model, inputs)
    model.save_pretrained(tmp_path / "folder")
    assert not [file for file in (tmp_path / "folder").glob("*.[jm]*") if str(tmp_path) in file.read_text()]
    model.save_pretrained(tmp_path / "named", repo_id="me/named")
    for name in ("folder", "named"):
        hub.create_repo(f"me/{name}")
        shutil.copytree(tmp_path / name, hub.folder(f"me/{name}"), dirs_exist_ok=True)
        loaded = SalmonnForConditionalGeneration.from_pretrained(f"me/{name}", cache_dir=hub.cache)
        torch.testing.assert_close(logits(loaded, inputs), expected)
    loaded = AutoModelForMultimodalLM.from_pretrained("me/named", cache_dir=hub.cache)
    torch.testing.assert_close(logits(loaded, inputs), expected)


def test_an_adapter_alone(hub, config, inputs):
    tiny_model(config).push_to_hub("me/base")
    model = AutoModelForMultimodalLM.from_pretrained("me/base", cache_dir=hub.cache)
    expected = logits(with_adapter(model), inputs)
    model.push_to_hub("me/adapter", adapter_only=True)
    assert hub.uploads[-1] == ("me/adapter", ADAPTER)
    for auto in (AutoModelForMultimodalLM, SalmonnForConditionalGeneration):
        torch.testing.assert_close(logits(auto.from_pretrained("me/adapter", cache_dir=hub.cache), inputs), expected)
    loaded = AutoModelForMultimodalLM.from_pretrained("me/base", cache_dir=hub.cache)
    loaded.load_adapter("me/adapter", cache_dir=hub.cache)
    torch.testing.assert_close(logits(loaded, inputs), expected)
    card = ModelCard.load(hub.folder("me/adapter") / "README.md")
    assert (card.data.base_model, card.data.library_name, card.data.license) == (["me/base"], "peft", "other")
    with pytest.raises(TypeError, match="arguments that it does not know: hotswop"):
        loaded.load_adapter("me/adapter", "two", hotswop=True)


def test_subfolders(hub, config, inputs, tmp_path):
    model = with_adapter(tiny_model(config))
    model.save_pretrained(tmp_path / "root" / "inner")
    hub.create_repo("me/root")
    shutil.copytree(tmp_path / "root", hub.folder("me/root"), dirs_exist_ok=True)
    for auto in (AutoModelForMultimodalLM, SalmonnForConditionalGeneration):
        for place in (tmp_path / "root", "me/root"):
            loaded = auto.from_pretrained(place, subfolder="inner", cache_dir=hub.cache)
            torch.testing.assert_close(logits(loaded, inputs), logits(model, inputs))


def test_an_adapter_without_a_name_of_its_base(config, tmp_path):
    with_adapter(tiny_model(config)).save_pretrained(tmp_path, adapter_only=True)
    with pytest.raises(ValueError, match="names no base model: load that one, then `load_adapter`"):
        SalmonnForConditionalGeneration.from_pretrained(tmp_path)


def test_cards_that_are_there_stay(hub, config, tmp_path):
    model = with_adapter(tiny_model(config))
    (tmp_path / "README.md").write_text("mine")
    model.save_pretrained(tmp_path, adapter_only=True)
    assert (tmp_path / "README.md").read_text() == "mine"
    hub.create_repo("me/it")
    (hub.folder("me/it") / "README.md").write_text("theirs")
    model.push_to_hub("me/it", adapter_only=True)
    assert (hub.folder("me/it") / "README.md").read_text() == "theirs"
