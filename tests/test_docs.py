# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Every shell and Python block of the README and of the pages in docs runs as it is printed, or says why not."""

import json
import re
import runpy
import shutil
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import yaml
from doc_pages import ROOT, SHELL, Block, check_commands, join_lines, read_blocks, read_words, run_blocks

from generation_salmonn import SalmonnGenerationMixin
from modeling_salmonn import SalmonnForConditionalGeneration
from nano_salmonn import assemble as nano_assemble
from tiny_salmonn import tiny_config, tiny_model, tiny_processor, with_adapter
from training_salmonn import activation, recipes


FIXTURES = ROOT / "tests" / "fixtures"
links = SimpleNamespace(**runpy.run_path(str(ROOT / "docs" / "theme" / "links.py")))
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "RELEASING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / name for name in ("nano_salmonn/README.md", "checkpoints/salmonn-nano/README.md")),
]
BLOCKS = {page: read_blocks(page) for page in PAGES if page.is_file()}

# What a page has from elsewhere: small ones stand in for the models and files that its reader has.
MODELS = {
    "README.md": ("base",),
    "ask.md": ("salmonn-nano",),
    "beats.md": ("salmonn-13b",),
    "data.md": ("salmonn-nano",),
    "evaluation.md": ("salmonn-nano",),
    "serving.md": ("nano",),
}
NEEDS = {
    "README.md": ("jiwer",),
    "activation.md": ("matplotlib",),
    "beats.md": ("matplotlib",),
    "data.md": ("datasets",),
    "evaluation.md": ("jiwer",),
    "finetune.md": ("bitsandbytes", "jiwer"),
    "model.md": ("bitsandbytes",),
    "trl.md": ("trl",),
}
BEATS = "BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt"
DOWNLOADS = {
    "openai/whisper-small": "salmonn/whisper",
    "openai/whisper-large-v2": "salmonn/whisper",
    "Qwen/Qwen2.5-0.5B-Instruct": "salmonn/llama",
    "vicuna-13b-v1.1": "salmonn/llama",
    "vicuna-7b-v1.5": "salmonn/llama",
    "salmonn_v1.pth": "salmonn/salmonn_tiny.pth",
    "salmonn_7b_v0.pth": "salmonn/salmonn_tiny.pth",
    "BEATs.pt": "beats/BEATs_tiny.pt",
    BEATS: "beats/BEATs_tiny.pt",
}
MANIFESTS = {
    "asr.jsonl": {"task": "asr", "text": "good morning"},
    "captions.jsonl": {"task": "audiocaption", "text": "A dog barks."},
    "questions.jsonl": {"question": "Who barks?", "text": "A dog."},
    "dev.jsonl": {"task": "asr", "text": "good morning"},
    "test.jsonl": {"task": "asr", "text": "good morning"},
    "clips.jsonl": {"task": "audiocaption", "text": "A dog barks."},
}
# The recipes of the project, for a tiny model and no time.
SHORT = {
    "max_steps": 2,
    "save_steps": 2,
    "eval_steps": 2,
    "logging_steps": 2,  # of curves with one point nothing is drawn
    "warmup_steps": 0,
    "per_device_train_batch_size": 2,
    "per_device_eval_batch_size": 2,
    "dataloader_num_workers": 0,
    "generation_max_new_tokens": 4,
    "answer_max_new_tokens": 8,
    "num_answers": 2,
    "model_dtype": "float32",
    "bf16": False,
    "report_to": [],
}
QFORMER = ("--qformer-hidden-size", "32", "--qformer-heads", "4", "--qformer-intermediate-size", "48", "--real-length")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """`base`, and the same with an adapter beside it, of the sizes that the recipes of salmonn-nano ask for."""
    folder = tmp_path_factory.mktemp("models")
    config = tiny_config(segment_seconds=4, fixed_length=False)
    tiny_model(config).save_pretrained(folder / "base")
    tiny_processor(config).save_pretrained(folder / "base")
    nano = tiny_model(config)
    layers = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    nano.add_adapter(nano.lora_config(r=16, lora_alpha=32, target_modules=layers))
    for name in ("salmonn-nano", "salmonn-13b", "nano"):
        nano.save_pretrained(folder / name)
        tiny_processor(config).save_pretrained(folder / name)
    return folder


@pytest.fixture
def reader(models, tmp_path, monkeypatch):
    """Puts a reader of a page into a folder of its own, with what the page takes for granted."""

    def sit_down(page: Path) -> None:
        for name in NEEDS.get(page.name, ()):
            pytest.importorskip(name)
        if "demo_salmonn.speech" in page.read_text(encoding="utf-8") and not can_speak():
            pytest.skip("needs a voice: pip install espeakng-loader, or the program espeak-ng")
        monkeypatch.chdir(tmp_path)
        for name in ("examples", "checkpoints", "benchmarks"):
            Path(name).symlink_to(ROOT / name)
        for name in MODELS.get(page.name, ()):
            shutil.copytree(models / name, name)
        for name, fixture in DOWNLOADS.items():
            Path(name).parent.mkdir(exist_ok=True)
            Path(name).symlink_to(FIXTURES / fixture)
        for name, seconds in (("clip.wav", 1.5), ("speech.wav", 2.0), ("long.wav", 9.0)):
            noise = np.random.default_rng(0).normal(0, 0.1, round(seconds * 16000))
            soundfile.write(name, noise, 16000)
        for name, row in MANIFESTS.items():
            rows = [json.dumps({"audio": clip, **row}) for clip in ("clip.wav", "speech.wav")]
            Path(name).write_text("\n".join(rows) + "\n")

    def assemble_nano(output, **options):
        return shutil.copytree(models / "salmonn-nano", output)

    load_recipe = recipes.load_recipe
    monkeypatch.setattr(recipes, "load_recipe", lambda recipe, **fields: load_recipe(recipe, **fields | SHORT))
    monkeypatch.setattr(nano_assemble, "assemble_nano", assemble_nano)
    # an LLM of random numbers never ends, and tells no stories
    monkeypatch.setattr(SalmonnForConditionalGeneration, "generate", generate_little)
    monkeypatch.setattr(activation, "find_fault", lambda text, *_: None if text.strip() else "short")
    return sit_down


def generate_little(model, *args, max_new_tokens: int = 8, **options):
    return SalmonnGenerationMixin.generate(model, *args, max_new_tokens=min(max_new_tokens, 8), **options)


def can_speak() -> bool:
    return find_spec("espeakng_loader") is not None or shutil.which("espeak-ng") is not None


def shrink(words: list[str]) -> list[str]:
    """Options that make the parts of a command fit the tiny ones."""
    if words[:2] == ["convert", "salmonn"]:
        return [*words, "--qformer-heads", "4"]
    return [*words, *QFORMER] if words[0] == "assemble" and "--nano" not in words else words


@pytest.mark.parametrize("page", [page for page in BLOCKS if any(b.not_run is None for b in BLOCKS[page])], ids=str)
def test_blocks_run(page, reader):
    reader(page)
    config = tiny_config()
    # the pages about adapters and about the web page begin with a model that is loaded, one without and one with
    model = with_adapter(tiny_model(config)) if page.name == "web.md" else tiny_model(config)
    run_blocks(BLOCKS[page], shrink, model=model, processor=tiny_processor(config), np=np)


@pytest.mark.parametrize("block", [b for page in BLOCKS for b in BLOCKS[page] if b.not_run is not None], ids=str)
def test_marks_have_reasons_and_commands_that_exist(block):
    assert len(block.not_run.split()) >= 2, f"{block}: say why it is not run"
    if block.language == SHELL:
        check_commands(block)
    else:
        compile(block.text, str(block), "exec")


@pytest.mark.parametrize("page", BLOCKS, ids=str)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


# What the site, which `make docs` builds, is made of: checked here as far as that needs no MkDocs.


def read_nav() -> list[str]:
    """The pages that the site's menu names, in order."""

    def pages(entry):
        values = [entry] if isinstance(entry, str) else entry.values() if isinstance(entry, dict) else entry
        for value in values:
            yield from [value] if isinstance(value, str) else pages(value)

    # only the menu: other parts of the file have tags that plain YAML does not know
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    return list(pages(yaml.safe_load(re.search(r"^nav:\n(?:[ \n].*\n?)+", text, re.MULTILINE)[0])["nav"]))


def find_anchors(page: Path) -> set[str]:
    """What links to parts of a page may name: its headings, as MkDocs and GitHub spell them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip()) for title in titles}


def test_the_menu_names_the_pages_that_exist():
    named = read_nav()
    assert len(named) == len(set(named))
    inside = {path.name for path in (ROOT / "docs").glob("*.md")}
    beside = [name for name in named if name not in inside]
    assert set(named) - set(beside) == inside
    # these lie outside of docs, and the hook takes them in
    found = [pattern for name in beside for pattern in links.BESIDE if Path(name).match(pattern)]
    assert len(found) == len(beside) and all((ROOT / name).is_file() for name in beside)


@pytest.mark.parametrize("page", BLOCKS, ids=str)
def test_anchors_exist(page):
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#([^)\s]+)\)", page.read_text(encoding="utf-8")):
        there = page.parent / target if target else page
        # of pages that are made while the site is built, `make docs` checks them
        if there.name != "commands.md" and not there.name.startswith("api_"):
            assert anchor in find_anchors(there), f"{page.name}: {target}#{anchor}"


@pytest.mark.parametrize(
    "page, link, moved",
    [
        ("docs/data.md", "[a](training.md#stages)", "[a](training.md#stages)"),
        ("docs/data.md", "[a](../nano_salmonn/README.md#clips)", "[a](nano_salmonn/README.md#clips)"),
        (
            "nano_salmonn/README.md",
            "[a](../docs/nano.md) and ![b](../docs/images/b.png)",
            "[a](../nano.md) and ![b](../images/b.png)",
        ),
        (
            "CONTRIBUTING.md",
            "[a](README.md), [b](https://c.d/e.md), [f](#g)",
            "[a](index.md), [b](https://c.d/e.md), [f](#g)",
        ),
    ],
)
def test_links_are_moved_with_their_pages(page, link, moved):
    assert links.move_links(link, page) == moved


# Of the runner itself


def write_page(folder: Path, text: str) -> list[Block]:
    page = folder / "page.md"
    page.write_text(text)
    return read_blocks(page)


def test_runner_names_what_fails(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = write_page(tmp_path, "# A\n\n```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n")
    with pytest.raises(AssertionError, match="page.md:7 does not run"):
        run_blocks(page)
    for wrong in ("salmonn ask nothing clip.wav", "ls nothing", "false\ntrue"):
        with pytest.raises(AssertionError, match="page.md:1 does not run"):
            run_blocks(write_page(tmp_path, f"```bash\n{wrong}\n```\n"))


def test_runner_leaves_out_what_is_marked(tmp_path):
    block = write_page(tmp_path, "text\n<!-- not run: needs a GPU -->\n```bash\nfalse\n```\n")[0]
    assert block.not_run == "needs a GPU"
    run_blocks([block])
    with pytest.raises(AssertionError, match="no option --oops"):
        check_commands(write_page(tmp_path, "```bash\nsalmonn train pretrain --oops 1\n```\n")[0])


def test_lines_are_joined(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.wav").touch()
    text = "# why\nsalmonn ask \\\n    ./m *.wav  # a comment\ncat > x <<EOF\nfor one\nEOF\nfor n in 1 2; do\n    echo $n\ndone\n"
    commands = join_lines(text)
    assert [command.split()[0] for command in commands] == ["salmonn", "cat", "for"]
    assert read_words(commands[0]) == ["salmonn", "ask", "./m", "a.wav"]
    assert read_words("salmonn ask a b && ls") == []
