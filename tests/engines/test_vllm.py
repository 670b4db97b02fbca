"""vLLM beside `generate`: the same tokens for every kind of prompt, and its server. `make test-vllm` has the environment."""

import asyncio
import base64
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from tiny_nano import save_nano
from transformers import AutoModelForMultimodalLM, AutoProcessor

from conversion_salmonn.loading import load_with_adapter
from conversion_salmonn.merge import merge
from serving_salmonn import timed_transcripts
from serving_salmonn.corpus import answer_corpus
from tiny_salmonn import noise


vllm = pytest.importorskip("vllm", reason="comes with make test-vllm")
openai = pytest.importorskip("openai", reason="comes with make test-vllm")

ROOT = Path(__file__).parents[2]
NEW_TOKENS = 12
# seconds of the clips of each prompt: none, one and two, of one segment and of several
PROMPTS = [
    *([seconds] for seconds in np.linspace(0.5, 28, 36).round(2).tolist()),
    *([30.0], [40.0], [70.0]),
    *([1.0, 2.0], [3.0, 40.0], [0.7, 0.7]),
    *([] for _ in range(2)),
]
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ENGINE_READY_TIMEOUT_S": "7200",  # on a busy machine, too
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}
os.environ.update(ENVIRONMENT)
SIZES = {"dtype": "float32", "max_model_len": 2048, "max_num_seqs": 16, "enforce_eager": True}
SIZES |= {"disable_log_stats": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The shipped model, cut down in size, with its adapter merged. vLLM has no narrower heads on a CPU."""
    root = tmp_path_factory.mktemp("engines")
    merge(save_nano(root / "nano", head_dim=32), root / "merged", dtype="float32")
    model = AutoModelForMultimodalLM.from_pretrained(root / "merged")
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.model.language_model.parameters():  # large, so that what is heard matters
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=random))
    model.save_pretrained(root / "merged")
    return str(root / "merged")


@pytest.fixture(scope="module")
def parts(folder):
    return AutoModelForMultimodalLM.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)


def conversation(clips, number: int) -> list[dict]:
    text = "What is this?" if number % 2 else "Say yes twice."
    return [
        {
            "role": "user",
            "content": [*({"type": "audio", "audio": clip} for clip in clips), {"type": "text", "text": text}],
        }
    ]


@pytest.fixture(scope="module")
def prompts(parts):
    """For vLLM: a text with its clips, or a text alone."""
    found = []
    for number, lengths in enumerate(PROMPTS):
        clips = [noise(seconds, number + 100 * place) for place, seconds in enumerate(lengths)]
        text = parts[1].apply_chat_template(conversation(clips, number), add_generation_prompt=True, tokenize=False)
        found.append({"prompt": text, **({"multi_modal_data": {"audio": clips}} if clips else {})})
    return found


@pytest.fixture(scope="module")
def expected(parts, prompts):
    """New tokens of `generate`, one prompt at a time."""
    return generate(*parts, prompts)


def generate(model, processor, prompts) -> list[list[int]]:
    answers = []
    for prompt in prompts:
        audio = prompt.get("multi_modal_data", {}).get("audio")
        inputs = processor(text=prompt["prompt"], audio=audio, return_tensors="pt")
        with torch.no_grad():
            output = model.generate(**inputs, num_beams=1, max_new_tokens=NEW_TOKENS)
        answers.append(output[0, inputs["input_ids"].shape[1] :].tolist())
    return answers


@contextmanager
def start(folder, **settings):
    """An engine, whose processes end with it: they would keep gigabytes."""
    engine = vllm.LLM(folder, **SIZES | settings)
    try:
        yield engine
    finally:
        engine.llm_engine.engine_core.shutdown()


def ask(engine, prompts, adapters=None) -> list[list[int]]:
    """All prompts at once, in batches as vLLM makes them."""
    sampling = vllm.SamplingParams(temperature=0, max_tokens=NEW_TOKENS)
    answers = engine.generate(prompts, sampling, use_tqdm=False, lora_request=adapters)
    return [list(answer.outputs[0].token_ids) for answer in answers]


@pytest.mark.parametrize("prefix_caching", [False, True])  # metrics add up over a process
def test_tokens_are_those_of_generate(folder, prompts, expected, prefix_caching):
    assert len(prompts) >= 40 and len({tuple(answer) for answer in expected}) > 20
    with start(folder, enable_prefix_caching=prefix_caching) as engine:
        assert ask(engine, prompts) == expected
        assert ask(engine, prompts[::-1]) == expected[::-1]  # in other batches, and from the cache
        hits = sum(metric.value for metric in engine.get_metrics() if metric.name == "vllm:prefix_cache_hits")
        assert (hits > 0) == prefix_caching
        with pytest.raises(ValueError, match="one audio placeholder for each clip, got 2 for 1"):
            ask(engine, [{**prompts[0], "prompt": "<|audio|>" + prompts[0]["prompt"]}])
        assert ask(engine, prompts[:1]) == expected[:1]  # it lives on


def test_lora_may_be_added_by_the_engine(folder, prompts, tmp_path):
    """To a model that has the connector of the adapter, in a batch with prompts that are answered without it."""
    from vllm.lora.request import LoRARequest

    merge(Path(folder).with_name("nano"), tmp_path / "served", dtype="float32", keep_lora=True)
    served, lora = str(tmp_path / "served"), str(tmp_path / "served" / "lora")
    chosen = [prompts[number] for number in (0, 9, 20, 37, 40, 42)]
    with_lora, without = (
        generate(*load_with_adapter(served, lora), chosen),
        generate(*load_with_adapter(served), chosen),
    )
    assert with_lora != without
    # a place for one more: on a CPU, vLLM 0.32 answers what has no LoRA with the last place, which is to be empty
    with start(served, enable_lora=True, max_lora_rank=16, max_loras=2) as engine:
        adapters = [LoRARequest("lora", 1, lora)] * len(chosen) + [None] * len(chosen)
        assert ask(engine, chosen * 2, adapters) == with_lora + without


def test_two_processes_may_share_a_model(folder, prompts, expected):
    """Tensor parallelism: the LLM is shared out by its heads, BEATs is whole in both."""
    chosen = [0, 9, 20, 37, 40, 42]
    with start(folder, tensor_parallel_size=2) as engine:
        assert ask(engine, [prompts[number] for number in chosen]) == [expected[number] for number in chosen]


def test_a_corpus_is_answered_as_by_transformers(folder, tmp_path):
    for number in range(6):
        soundfile.write(tmp_path / f"{number}.wav", noise(1 + 2 * number, number), 16000)  # up to 11 s, of 6 s at most
    rows = [{"audio": f"{number}.wav"} | ({"question": "Who?"} if number % 2 else {}) for number in range(6)]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for engine in ("transformers", "vllm"):
        options = {key: value for key, value in SIZES.items() if key != "dtype"} if engine == "vllm" else {}
        output = tmp_path / f"{engine}.jsonl"
        generation = {"max_new_tokens": NEW_TOKENS}
        settings = {"dtype": "float32", "generation": generation, "engine_options": options}
        assert answer_corpus(folder, tmp_path / "corpus.jsonl", output, engine=engine, **settings).answered_now == 6
    assert (tmp_path / "vllm.jsonl").read_text() == (tmp_path / "transformers.jsonl").read_text()


def test_a_model_with_an_adapter_does_not_start(folder, tmp_path):
    """Or its base would be served alone."""
    shutil.copytree(folder, tmp_path / "both")
    (tmp_path / "both" / "adapter_config.json").write_text("{}")
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(tmp_path / "both")]
    run = subprocess.run([*command, "--enforce-eager"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode != 0 and "`salmonn merge" in run.stdout + run.stderr


def test_examples_have_arguments_of_vllm():
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    examples = ROOT / "examples" / "serving"
    compose = yaml.safe_load((examples / "compose.yaml").read_text())
    deployment, _ = yaml.safe_load_all((examples / "kubernetes" / "vllm.yaml").read_text())
    parser = make_arg_parser(FlexibleArgumentParser())
    for arguments in (
        compose["services"]["salmonn"]["command"],
        deployment["spec"]["template"]["spec"]["containers"][0]["args"],
    ):
        options = parser.parse_args(arguments)
        assert options.max_model_len == 4096 and options.served_model_name == ["salmonn"]


ALONE = """
import importlib.util, json, sys
import numpy as np
import vllm

def main():
    assert importlib.util.find_spec("modeling_salmonn") is None, "the project can be imported"
    folder, file, max_tokens = sys.argv[1:]
    with np.load(file) as clips:
        prompts = [{"prompt": name.split("|", 1)[1], "multi_modal_data": {"audio": [clips[name]]}} for name in clips.files]
    engine = vllm.LLM(
        folder, dtype="float32", max_model_len=2048, max_num_seqs=16, enforce_eager=True,
        trust_remote_code=True, model_impl="transformers",
    )
    sampling = vllm.SamplingParams(temperature=0, max_tokens=int(max_tokens))
    print("ANSWERS" + json.dumps([list(a.outputs[0].token_ids) for a in engine.generate(prompts, sampling, use_tqdm=False)]))

if __name__ == "__main__":
    main()
"""
# What an editable installation adds to a process is taken back, in the processes that vLLM starts too.
WITHOUT_PROJECT = f"""
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in getattr(finder, "__module__", "")]
sys.path[:] = [entry for entry in sys.path if entry not in ({str(ROOT)!r}, {str(ROOT / "tests")!r})]
sys.path_hooks[:] = [hook for hook in sys.path_hooks if "__editable__" not in getattr(hook, "__module__", "")]
"""


def test_a_checkpoint_is_enough(folder, prompts, expected, tmp_path):
    """Without the plugin, and where nothing of the project can be imported: clips of any number of segments."""
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_PROJECT)
    (tmp_path / "alone.py").write_text(ALONE)
    chosen = [0, 9, 20, 36, 37, 38]
    np.savez(
        tmp_path / "clips.npz",
        **{
            f"{place}|{prompts[number]['prompt']}": prompts[number]["multi_modal_data"]["audio"][0]
            for place, number in enumerate(chosen)
        },
    )
    environment = os.environ | {
        "PYTHONPATH": str(tmp_path),
        "VLLM_PLUGINS": "",
        "HF_MODULES_CACHE": str(tmp_path / "modules"),
    }
    command = [sys.executable, "alone.py", folder, "clips.npz", str(NEW_TOKENS)]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    lines = [line for line in run.stdout.splitlines() if line.startswith("ANSWERS")]
    assert lines, run.stdout[-3000:] + run.stderr[-3000:]
    assert json.loads(lines[0].removeprefix("ANSWERS")) == [expected[number] for number in chosen]


# ----------------------------------------------------------------------------------------------------------------------
# The server


@pytest.fixture(scope="module")
def server(folder, tmp_path_factory):
    """Its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    # what `vllm serve` runs, whose program looks for a distribution of the name of vllm: this one is vllm-cpu
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", folder, "--served-model-name", "salmonn"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-model-len", "2048"]
    command += ["--enforce-eager", "--max-num-seqs", "16"]
    command += ["--middleware", "serving_salmonn.timed_transcripts.TimedTranscripts"]
    with open(log, "w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=log.parent)
        try:
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health").read()
                    break
                except (urllib.error.URLError, ConnectionError):
                    assert process.poll() is None, log.read_text()[-5000:]
                    time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/v1"
            assert process.poll() is None, log.read_text()[-5000:]
        finally:
            process.terminate()
            process.wait(60)


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=server, api_key="none", max_retries=0, timeout=3600)


def wav(seconds: float, seed: int = 0) -> io.BytesIO:
    buffer = io.BytesIO()
    soundfile.write(buffer, noise(seconds, seed), 16000, format="WAV", subtype="FLOAT")
    buffer.seek(0)
    buffer.name = "clip.wav"
    return buffer


def messages(*clips: io.BytesIO, text: str = "What is this?") -> list[dict]:
    data = [base64.b64encode(clip.getvalue()).decode() for clip in clips]
    audio = [{"type": "input_audio", "input_audio": {"data": clip, "format": "wav"}} for clip in data]
    return [{"role": "user", "content": [*audio, {"type": "text", "text": text}]}]


def answer(parts, clips, text="What is this?") -> str:
    model, processor = parts
    content = [*({"type": "audio", "audio": clip} for clip in clips), {"type": "text", "text": text}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True
    )
    with torch.no_grad():
        output = model.generate(**inputs, num_beams=1, max_new_tokens=NEW_TOKENS)
    return processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


@pytest.mark.parametrize("lengths", [[2.0], [1.0, 40.0], []])
def test_chat(client, parts, lengths):
    request = {
        "model": "salmonn",
        "max_tokens": NEW_TOKENS,
        "temperature": 0,
        "messages": messages(*map(wav, lengths)),
    }
    found = client.chat.completions.create(**request).choices[0].message.content
    assert found.strip() == answer(parts, [noise(seconds) for seconds in lengths])
    pieces = [chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(**request, stream=True)]
    assert "".join(pieces) == found and len(pieces) > 2


def test_completion(client, parts):
    model, processor = parts
    text = "<|im_start|>user\nyes<|im_end|>\n<|im_start|>assistant\n"
    ids = processor.tokenizer(text, return_tensors="pt", add_special_tokens=False)
    output = model.generate(**ids, num_beams=1, max_new_tokens=5)[0, ids["input_ids"].shape[1] :]
    found = client.completions.create(
        model="salmonn", prompt=text, max_tokens=5, temperature=0, extra_body={"add_special_tokens": False}
    )
    assert found.choices[0].text.strip() == processor.decode(output, skip_special_tokens=True).strip()


def test_transcription(client, server, parts):
    model, processor = parts
    with torch.no_grad():
        output = model.generate(**processor(audio=noise(2.5)), num_beams=1, max_new_tokens=NEW_TOKENS)[0]
    expected = processor.decode(output, skip_special_tokens=True).strip()
    body = {"extra_body": {"max_completion_tokens": NEW_TOKENS}}
    found = client.audio.transcriptions.create(model="salmonn", file=wav(2.5), temperature=0, **body)
    assert found.text == expected
    with client.audio.transcriptions.with_streaming_response.create(
        model="salmonn", file=wav(2.5), temperature=0, stream=True, **body
    ) as response:
        lines = [line.removeprefix("data: ") for line in response.read().decode().splitlines() if line]
    assert lines[-1] == "[DONE]"
    deltas = [json.loads(line)["choices"][0]["delta"].get("content") or "" for line in lines[:-1]]
    assert "".join(deltas).strip() == expected and len(deltas) > 1


def test_long_recordings_are_transcribed_in_pieces(client, parts):
    """Of at most the six seconds that the model was trained on: three, where one would be of 12 tokens at most."""
    found = client.audio.transcriptions.create(
        model="salmonn", file=wav(15), temperature=0, extra_body={"max_completion_tokens": NEW_TOKENS}
    )
    assert len(parts[1].tokenizer(found.text).input_ids) > NEW_TOKENS


def test_transcripts_with_times(client, parts):
    """Of the pieces that the project cuts, each transcribed as by `generate`."""
    from vllm import envs

    model, processor = parts
    clip = noise(15)
    pieces = list(processor.feature_extractor.split_for_transcription(clip))
    texts = []
    for piece in pieces:
        with torch.no_grad():
            output = model.generate(**processor(audio=piece), num_beams=1, max_new_tokens=NEW_TOKENS)[0]
        texts.append(processor.decode(output, skip_special_tokens=True).strip())
    request = {"model": "salmonn", "temperature": 0, "extra_body": {"max_completion_tokens": NEW_TOKENS}}
    found = client.audio.transcriptions.create(file=wav(15), response_format="verbose_json", **request)
    assert len(pieces) > 2 and [segment.text for segment in found.segments] == texts
    ends = np.cumsum([len(piece) for piece in pieces]) / 16000
    assert [segment.end for segment in found.segments] == pytest.approx(ends.tolist(), abs=1e-3)
    assert found.text == " ".join(text for text in texts if text) and found.duration == 15
    subtitles = client.audio.transcriptions.create(file=wav(15), response_format="srt", **request)
    assert subtitles.startswith("1\n00:00:00,000 --> ") and all(text in subtitles for text in texts)
    for name, bound in timed_transcripts.BOUNDS.items():
        assert getattr(envs, name) == bound


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"file": ("clip.wav", b"no sound")}, "nvalid|audio"),
        ({"file": ("clip.wav", b"no sound"), "response_format": "verbose_json"}, "is no audio that can be read"),
        ({"file": wav(1), "prompt": "Good morning."}, "`prompt` must be left out"),
        ({"file": wav(1), "prompt": "Good morning.", "response_format": "srt"}, "`prompt` must be left out"),
    ],
)
def test_what_a_transcription_cannot_be_told_is_refused(client, request_, reason):
    with pytest.raises(openai.BadRequestError, match=reason):
        client.audio.transcriptions.create(model="salmonn", **request_)


def test_a_typed_placeholder_is_refused(client):
    with pytest.raises(openai.BadRequestError, match="one audio placeholder for each clip"):
        client.chat.completions.create(
            model="salmonn", max_tokens=2, messages=messages(wav(1), text="Is this <|audio|>?")
        )


def test_many_clients_at_once(server, parts):
    """32 clients, every fourth of them wrong: each right one gets its own answer, each wrong one an error of its own."""
    texts = [answer(parts, [noise(1 + number / 8, number)]) for number in range(8)]

    async def request(client, number):
        clip = wav(1 + number % 8 / 8, number % 8)
        if number % 4 == 3:
            clip = io.BytesIO(clip.getvalue()[:20]) if number % 8 == 3 else clip
            text = "What is this?" if number % 8 == 3 else "<|audio|>"
        else:
            text = "What is this?"
        try:
            found = await client.chat.completions.create(
                model="salmonn", max_tokens=NEW_TOKENS, temperature=0, messages=messages(clip, text=text)
            )
        except openai.APIStatusError as error:
            return error.status_code
        return found.choices[0].message.content.strip()

    async def all_requests():
        async with openai.AsyncOpenAI(base_url=server, api_key="none", max_retries=0, timeout=3600) as client:
            return await asyncio.gather(*(request(client, number) for number in range(32)))

    found = asyncio.run(all_requests())
    right = [number for number in range(32) if number % 4 != 3]
    assert [found[number] for number in right] == [texts[number % 8] for number in right]
    assert found[7::8] == [400] * 4  # typed placeholders
    assert set(found[3::8]) <= {400, 500}  # files that are no audio, which vLLM reads
