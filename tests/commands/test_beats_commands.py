# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""`salmonn tags` and `salmonn embed`: what a BEATs alone makes of clips of any length."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from beats_salmonn.windows import cut_windows
from cli_salmonn.main import main
from conversion_salmonn.beats_loading import load_beats
from conversion_salmonn.convert_beats import convert_beats
from data_salmonn.audio import read_audio
from modeling_beats import BeatsForAudioClassification, BeatsModel
from tiny_salmonn import noise, tiny_config, tiny_model, with_adapter


FIXTURES = Path(__file__).parents[1] / "fixtures" / "beats"
FINE_TUNED, SELF_SUPERVISED = FIXTURES / "BEATs_tiny.pt", FIXTURES / "BEATs_tiny_ssl.pt"
COLUMN = 0.16  # seconds


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    convert_beats(FINE_TUNED, folder / "beats")
    model = tiny_model(tiny_config())
    model.save_pretrained(folder / "salmonn", max_shard_size="200KB")
    tiny_model(tiny_config(beats_config=None)).save_pretrained(folder / "deaf")
    with_adapter(type(model).from_pretrained(folder / "salmonn")).save_pretrained(
        folder / "adapter", adapter_only=True
    )
    return folder


@pytest.fixture(autouse=True)
def clips(tmp_path, monkeypatch):
    """The working folder: a clip of a single column, one of a second and a half, one of five seconds."""
    monkeypatch.chdir(tmp_path)
    Path("clips").mkdir()
    for name, seconds in (("column", 0.175), ("middle", 1.5), ("long", 5.0)):
        soundfile.write(f"clips/{name}.wav", noise(seconds), 16000)
    soundfile.write("short.wav", noise(0.17), 16000)


def run(capsys, *words) -> str:
    status = main(list(map(str, words)))
    printed = capsys.readouterr()
    assert status == 0, printed.err
    return printed.out


def refuse(capsys, *words) -> str:
    """The one line that a wrong command ends with."""
    assert main(list(map(str, words))) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("salmonn: error: ") and printed.err.count("\n") == 1
    return printed.err


def score(name: str, start: float = 0.0, end: float | None = None) -> np.ndarray:
    """Probabilities of the labels in a part of a clip, by the model's own forward."""
    model, extractor = load_beats(FINE_TUNED)
    samples = read_audio(name)[round(start * 16000) : None if end is None else round(end * 16000) + 240]
    with torch.no_grad():
        logits = model(**extractor(samples, sampling_rate=16000, return_tensors="pt")).logits
    return logits[0].sigmoid().numpy()


# ----------------------------------------------------------------------------------------------------------------------
# Loading


@pytest.mark.parametrize("name", ["salmonn", "adapter"])
def test_the_beats_in_a_salmonn(models, name):
    model, extractor = load_beats(models / name)
    expected = tiny_model(tiny_config()).model.beats.state_dict()
    assert type(model) is BeatsModel and not model.training and extractor.num_mel_bins == 128
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, expected[key], rtol=0, atol=0)


def test_released_files_and_folders_of_them(models):
    for source, kind in (
        (FINE_TUNED, BeatsForAudioClassification),
        (SELF_SUPERVISED, BeatsModel),
        (models / "beats", BeatsForAudioClassification),
    ):
        assert type(load_beats(source)[0]) is kind
    (first, _), (second, _) = load_beats(FINE_TUNED), load_beats(models / "beats")
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values()))


# ----------------------------------------------------------------------------------------------------------------------
# Windows


@pytest.mark.parametrize(
    ("columns", "window", "hop", "expected"),
    [
        (3, 5, 5, [(0, 3)]),
        (5, 5, 5, [(0, 5)]),
        (12, 5, 5, [(0, 5), (5, 5), (7, 5)]),
        (10, 5, 2, [(0, 5), (2, 5), (4, 5), (5, 5)]),
        (11, 4, 4, [(0, 4), (4, 4), (7, 4)]),
    ],
)
def test_windows(columns, window, hop, expected):
    windows = cut_windows(columns, window, hop)
    assert [(each.first, each.columns) for each in windows] == expected
    assert windows[-1].end == columns
    # each column is taken from one window, of those in whose middle it stands nearest
    found = [
        (number, column) for number, each in enumerate(windows) for column in range(each.first, each.end)[each.own]
    ]
    assert [column for _, column in found] == list(range(columns))
    for number, column in found:
        distances = [abs(each.first + (each.columns - 1) / 2 - column) for each in windows]
        assert distances[number] == min(distances)


# ----------------------------------------------------------------------------------------------------------------------
# Tags


def read_jsonl(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_tags_are_the_scores_of_the_model(capsys, batch_size):
    command = ("tags", "clips", "--model", FINE_TUNED, "--window", 1.5, "--hop", 1, "--top", 3, "--json")
    rows = read_jsonl(run(capsys, *command, "--batch-size", batch_size))
    assert [row["audio"] for row in rows] == ["clips/column.wav", "clips/long.wav", "clips/middle.wav"]
    long = rows[1]
    assert long["seconds"] == 5
    times = [(each["start"], each["end"]) for each in long["times"]]
    assert times == [(0, 1.44), (0.96, 2.4), (1.92, 3.36), (2.88, 4.32), (3.52, 4.96)]
    labels = load_beats(FINE_TUNED)[0].config.id2label
    expected = np.stack([score("clips/long.wav", *time) for time in times])
    best = [labels[index] for index in np.argsort(-expected.max(axis=0))[:3]]
    assert [tag["label"] for tag in long["tags"]] == best
    index = {label: number for number, label in labels.items()}
    for row, part in zip(expected, long["times"]):
        assert part["scores"] == pytest.approx({label: row[index[label]] for label in best}, abs=2e-5)
    for row in (rows[0], rows[2]):  # each is one window, whole
        expected = np.sort(score(row["audio"]))[::-1][:3]
        assert [tag["score"] for tag in row["tags"]] == pytest.approx(expected.tolist(), abs=2e-5)


def test_tags_by_frames(capsys):
    words = ("tags", "clips/long.wav", "--model", FINE_TUNED, "--frames", "--top", 2, "--csv", "--window", 2)
    rows = list(csv.DictReader(io.StringIO(run(capsys, *words))))
    labels = list(dict.fromkeys(row["label"] for row in rows))
    starts = [float(row["start"]) for row in rows if row["label"] == labels[0]]
    assert len(labels) == 2 and starts == pytest.approx([round(COLUMN * n, 3) for n in range(31)])

    # the last window reaches back to be whole: what it shares with the one before is parted in the middle
    model, extractor = load_beats(FINE_TUNED)
    found = []
    for first, start, stop in ((0, 0, 12), (12, 12, 22), (19, 22, 31)):
        part = read_audio("clips/long.wav")[first * 2560 : (first + 12) * 2560 + 240]
        with torch.no_grad():
            states = model.beats(**extractor(part, sampling_rate=16000, return_tensors="pt")).last_hidden_state
            logits = model.classifier(states).reshape(12, 8, -1).mean(dim=1)
        found.append(logits[start - first : stop - first].sigmoid())
    index = model.config.label2id[labels[0]]
    expected = torch.cat(found)[:, index].tolist()
    assert [float(row["score"]) for row in rows if row["label"] == labels[0]] == pytest.approx(expected, abs=2e-5)


def test_tags_as_text_with_names(capsys):
    labels = load_beats(FINE_TUNED)[0].config.id2label.values()
    lines = ["index,mid,display_name", *(f'{n},{label},"Sound, {n}"' for n, label in enumerate(labels))]
    Path("names.csv").write_text("\n".join(lines))
    scores = score("clips/middle.wav")
    text = run(capsys, "tags", "clips/middle.wav", "--model", FINE_TUNED, "--labels", "names.csv", "--top", 2)
    best = np.argsort(-scores)[:2]
    assert text.splitlines() == [
        "clips/middle.wav, 1.5 s",
        *(f"  {scores[index]:.3f}  Sound, {index}  (0.0 to 1.4 s)" for index in best),
    ]
    threshold = (scores[best[0]] + scores[best[1]]) / 2
    text = run(capsys, "tags", "clips/middle.wav", "--model", FINE_TUNED, "--threshold", threshold)
    assert len(text.splitlines()) == 2


def test_plots(capsys):
    pytest.importorskip("matplotlib")
    run(capsys, "tags", "clips/long.wav", "--model", FINE_TUNED, "--frames", "--plot", "one.png")
    run(capsys, "tags", "clips", "--model", FINE_TUNED, "--plot", "plots", "--threshold", 1)  # none of the tags
    assert {path.name for path in Path("plots").iterdir()} == {"column.wav.png", "long.wav.png", "middle.wav.png"}
    for path in (Path("one.png"), *Path("plots").iterdir()):
        assert path.read_bytes().startswith(b"\x89PNG")
    message = refuse(capsys, "tags", "clips", "--model", FINE_TUNED, "--plot", "one.png")
    assert "`--plot` must be a folder for 3 clips" in message


def test_tags_need_a_classifier(models, capsys):
    for model in (models / "salmonn", SELF_SUPERVISED):
        assert "has no classifier" in refuse(capsys, "tags", "clips", "--model", model)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["clips/gone.wav"], "`audio` clips/gone.wav does not exist"),
        (["What is it?"], "`audio` What is it? does not exist"),
        (["short.wav"], "`audio` short.wav must last at least 0.175 s, got 0.170 s"),
        (["clips", "--window", "0.1"], "`window` must be at least 0.175 seconds, got 0.1"),
        (["clips", "--window", "2", "--hop", "0.1"], "`hop` must be at least 0.175 seconds, got 0.1"),
        (["clips", "--window", "2", "--hop", "3"], "`hop` must not be longer than `window`, 2 seconds, got 3"),
        (["clips", "--labels", "gone.csv"], "`labels` gone.csv cannot be read"),
        (["clips", "--labels", "clips/long.wav"], "`labels` clips/long.wav cannot be read"),
        (["clips", "--model", "gone.pt"], "`model` must be a folder or the id"),
        (["clips", "--model", "./gone"], "`model` ./gone does not exist"),
    ],
)
def test_wrong_words_are_one_line(capsys, words, message):
    assert message in refuse(capsys, "tags", "--model", FINE_TUNED, *words)


def test_labels_without_a_name_are_refused(capsys):
    Path("names.csv").write_text("index,mid,display_name\n0,/m/tiny000,Speech\n")
    message = refuse(capsys, "tags", "clips", "--model", FINE_TUNED, "--labels", "names.csv")
    assert "has no name for 526 of the 527 labels of the model, such as /m/tiny001" in message


# ----------------------------------------------------------------------------------------------------------------------
# Embeddings


def states_of(model: BeatsModel, extractor, samples: np.ndarray) -> torch.Tensor:
    """`(layers, columns, width)`"""
    with torch.no_grad():
        features = extractor(samples, sampling_rate=16000, return_tensors="pt")
        states = torch.stack(model(**features, output_hidden_states=True).hidden_states)[:, 0]
    return states.unflatten(1, (-1, 8)).mean(dim=2)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_embeddings_are_means_of_hidden_states(models, capsys, batch_size):
    said = run(
        capsys, "embed", "clips", "--model", models / "salmonn", "--output", "e.npz", "--batch-size", batch_size
    )
    assert said == "wrote e.npz\n"
    with np.load("e.npz") as file:
        assert file["audio"].tolist() == ["clips/column.wav", "clips/long.wav", "clips/middle.wav"]
        assert file["layers"].tolist() == [0, 1, 2]
        assert file["embeddings"].shape == (3, 3, 32) and file["embeddings"].dtype == np.float32
        beats = load_beats(models / "salmonn")
        for name, values in zip(file["audio"], file["embeddings"]):
            expected = states_of(*beats, read_audio(str(name))).mean(dim=1)
            torch.testing.assert_close(torch.from_numpy(values), expected, atol=1e-4, rtol=1e-4)
    assert [path.name for path in Path().iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("hop", "windows"),
    [
        ((), ((0, 0, 12), (12, 12, 22), (19, 22, 31))),
        (("--hop", 1), ((0, 0, 9), (6, 9, 15), (12, 15, 21), (18, 21, 25), (19, 25, 31))),
    ],
)
def test_long_clips_are_embedded_in_windows(capsys, hop, windows):
    """Every column once: 31 of them in windows of 12, which part in the middle what they share."""
    command = ("embed", "clips/long.wav", "--model", SELF_SUPERVISED, "--window", 2, "--layers", 2, 0, *hop)
    run(capsys, *command, "--frames", "--output", "frames")
    run(capsys, *command, "--output", "mean.npz")
    with np.load("frames/long.wav.npz") as file:
        frames, times = file["embeddings"], file["times"]
        assert file["layers"].tolist() == [2, 0] and str(file["audio"]) == "clips/long.wav"
    beats, samples = load_beats(SELF_SUPERVISED), read_audio("clips/long.wav")
    parts = [
        states_of(*beats, samples[first * 2560 : (first + 12) * 2560 + 240])[:, start - first : stop - first]
        for first, start, stop in windows
    ]
    expected = torch.cat(parts, dim=1)[[2, 0]]
    torch.testing.assert_close(torch.from_numpy(frames), expected, atol=1e-4, rtol=1e-4)
    assert times == pytest.approx(COLUMN * (np.arange(31) + 0.5))
    with np.load("mean.npz") as file:
        np.testing.assert_allclose(file["embeddings"][0], frames.mean(axis=1), atol=1e-4, rtol=1e-4)


def test_wrong_embeddings_are_one_line(models, capsys):
    Path("there.npz").touch()
    soundfile.write("long.wav", noise(1), 16000)
    for words, message in (
        (["--output", "e.csv"], "`--output` must be a .npz file"),
        (["--output", "there.npz"], "`--output` there.npz exists"),
        (["--output", "gone/e.npz"], "there is no folder gone"),
        (["--output", "clips", "--frames"], "exists and is not empty"),
        (["--output", "e.npz", "--layers", "3"], "`layers` must be from 0 to 2"),
        (
            ["--output", "e.npz", "--window", "2", "--hop", "3"],
            "`hop` must not be longer than `window`, 2 seconds, got 3",
        ),
        (["--output", "e.npz", "--model", models / "deaf"], "is a SALMONN without BEATs"),
        (["--output", "e.npz", "short.wav"], "must last at least 0.175 s"),
        (["--output", "e", "--frames", "long.wav"], "several clips that would be written to long.wav.npz"),
    ):
        before = sorted(Path().rglob("*"))
        assert message in refuse(capsys, "embed", "clips", "--model", SELF_SUPERVISED, *words)
        assert sorted(Path().rglob("*")) == before
    run(capsys, "embed", "clips", "--model", SELF_SUPERVISED, "--output", "there.npz", "--overwrite")
    assert Path("there.npz").stat().st_size > 0


def test_an_adapter_that_changes_beats_is_refused(capsys):
    model = tiny_model(tiny_config())
    model.save_pretrained("changed")
    model = type(model).from_pretrained("changed")
    model.add_adapter(model.lora_config(modules_to_save=["beats"]))
    model.save_pretrained("changed")
    capsys.readouterr()  # progress of saving
    message = refuse(capsys, "embed", "clips", "--model", "changed", "--output", "e.npz")
    assert "has an adapter that changes its BEATs" in message
