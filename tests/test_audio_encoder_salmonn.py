"""The encoders as one module, and models that hear with BEATs alone."""

import copy

import pytest
import torch
from torch.overrides import TorchFunctionMode
from transformers import WhisperConfig, WhisperModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from audio_encoder_salmonn import SalmonnAudioEncoder, SalmonnSpeechEncoder
from feature_extraction_beats import BeatsFeatureExtractor
from feature_extraction_salmonn import SalmonnFeatureExtractor
from modeling_salmonn import SalmonnForConditionalGeneration
from tiny_salmonn import VARIANTS, ask, noise, question, tiny_config, tiny_model, tiny_processor, with_adapter


ALONE = {"speech_config": None, "segment_seconds": 4}


@pytest.fixture(scope="module")
def alone():
    config = tiny_config(**ALONE)
    processor = tiny_processor(config)
    config.transcription_prompt_ids = processor.transcription_prompt_ids()
    return tiny_model(config), processor


@pytest.mark.parametrize("settings", [{}, {"beats_config": None}, ALONE])
def test_the_encoder_of_audio_is_one_module_whose_weights_keep_their_names(settings):
    model = tiny_model(tiny_config(**settings))
    encoder = model.get_encoder("audio")
    assert isinstance(encoder, SalmonnAudioEncoder) and encoder is model.model.get_encoder("audio")
    own = encoder.state_dict()
    assert own.keys() and all(torch.equal(model.state_dict()[f"model.{name}"], own[name]) for name in own)
    assert {name.split(".")[0] for name in own} == {
        name for name in SalmonnAudioEncoder.PARTS if getattr(model.model, name) is not None
    }
    assert not any("audio_encoder" in name for name, _ in model.named_modules())


def test_the_encoder_follows_its_parts():
    """An adapter puts trained copies of the norms in their places, and copies of a model have parts of their own."""
    config = tiny_config(segment_seconds=4)
    model, processor = tiny_model(config), tiny_processor(config)
    features = processor.feature_extractor(noise(2), 16000, return_tensors="pt")
    with torch.no_grad():
        before = model.get_encoder("audio")(**features).last_hidden_state
        with_adapter(model)
        after = model.get_encoder("audio")(**features).last_hidden_state
        twin = copy.deepcopy(model)
        torch.nn.init.zeros_(twin.model.beats_layer_norm.modules_to_save["default"].weight)
        changed = twin.get_encoder("audio")(**features).last_hidden_state
        again = model.get_encoder("audio")(**features).last_hidden_state
    assert not torch.equal(before, after) and not torch.equal(changed, after)
    assert torch.equal(again, after)
    assert model.get_encoder("audio").beats_layer_norm is model.model.beats_layer_norm


def test_the_stream_is_what_get_audio_features_reads():
    config = tiny_config(segment_seconds=4)
    model, processor = tiny_model(config), tiny_processor(config)
    features = processor.feature_extractor([noise(2), noise(1)], 16000, return_tensors="pt")
    with torch.no_grad():
        stream = model.get_encoder("audio")(**features).last_hidden_state
        found = model.get_audio_features(**features).last_hidden_state  # in two passes
    torch.testing.assert_close(found, stream, atol=1e-4, rtol=0)


@pytest.mark.parametrize("fixed_length", [True, False])
def test_beats_alone_hears_what_beats_gives(fixed_length):
    """Computed apart: a clip, with silence up to a whole segment where that is heard, through BEATs and its norm."""
    config = tiny_config(**ALONE, fixed_length=fixed_length)
    model, processor = tiny_model(config), tiny_processor(config)
    clips = [noise(2.31, 1), noise(1.5, 2)]
    features = processor.feature_extractor(clips, 16000, return_tensors="pt")
    with torch.no_grad():
        found = model.get_audio_features(**features)
        tokens = []
        for row, clip in enumerate(clips):
            samples = torch.zeros(64000 if fixed_length else -(-len(clip) // 320) * 320, dtype=torch.float64)
            samples[: len(clip)] = torch.from_numpy(clip)
            fbank = BeatsFeatureExtractor()(samples, 16000, return_tensors="pt")["input_features"]
            states = model.model.beats_layer_norm(model.model.beats(fbank).last_hidden_state)[0]
            torch.testing.assert_close(found.last_hidden_state[row, : len(states)], states, atol=1e-4, rtol=0)
            assert not found.last_hidden_state[row, len(states) :].any()
            windows = states[: len(states) // 17 * 17].unflatten(0, (-1, 17))
            tokens.append(model.model.connector(windows).flatten(0, 1))
    torch.testing.assert_close(found.pooler_output, torch.cat(tokens), atol=1e-4, rtol=0)
    assert found.pooler_output.shape[0] == sum(processor._count_audio_tokens(len(clip)) for clip in clips)


def test_beats_alone_transcribes_long_clips_piece_by_piece(alone):
    model, processor = alone
    model.config.max_audio_seconds = processor.feature_extractor.max_audio_seconds = 4
    clip = noise(7)
    pieces = processor.feature_extractor(clip, 16000, return_tensors="pt", cut_at_silence=True)
    assert len(pieces["input_features"]) == 2 and pieces["input_features"].shape[1:] == (128, 400)
    whole = model.generate(**processor(clip), max_new_tokens=3, do_sample=False)[0].tolist()
    joined = [
        model.generate(pieces["input_features"][[row]], max_new_tokens=3, do_sample=False)[0].tolist()
        for row in range(2)
    ]
    assert whole == joined[0] + joined[1]


def test_beats_alone_takes_its_input_by_itself(alone):
    model, processor = alone
    inputs = ask(processor, question(noise(2, 1)), question(noise(3, 2)))
    packed = inputs.pop("input_features")
    with torch.no_grad():
        expected = model(**inputs, input_features=packed).logits
        assert torch.equal(model(**inputs, fbank_features=packed.transpose(1, 2)[:, :398]).logits, expected)
    for wrong in ({"mel_features": packed}, {"mel_features": packed, "fbank_features": packed.transpose(1, 2)}):
        with pytest.raises(ValueError, match="each where the model has its encoder"):
            model(**inputs, **wrong)
    with pytest.raises(ValueError, match="no more frames than a segment"):
        model(**inputs, fbank_features=torch.ones(2, 401, 128))


def test_an_adapter_on_beats_alone(alone, tmp_path):
    model, processor = alone
    inputs = ask(processor, question(noise(2, 1)))
    model.save_pretrained(tmp_path / "base")
    trained = with_adapter(copy.deepcopy(model))
    assert set(trained.peft_config["default"].modules_to_save) == {"connector", "beats_layer_norm"}
    trained.save_pretrained(tmp_path / "adapter", adapter_only=True)
    loaded = SalmonnForConditionalGeneration.from_pretrained(tmp_path / "base")
    loaded.load_adapter(tmp_path / "adapter")
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, trained(**inputs).logits)
        assert not torch.equal(loaded(**inputs).logits, model(**inputs).logits)


# Transformers' Q-Former asks whether the mask of whole segments masks anything.
ASKS = ("real length, whole segment", "real length, BEATs only, whole segment")


@pytest.mark.parametrize("settings", [VARIANTS[name] for name in VARIANTS if name not in ASKS])
@pytest.mark.parametrize("frames", [(198, 98), (198, 198)])
def test_nothing_waits_for_the_device_between_features_and_embeddings(settings, frames):
    """Tensors without data cannot be read: whatever asks for a value of theirs raises an error."""
    config = tiny_config(**settings)
    model = tiny_model(config)
    columns = config.segment_columns if config.fixed_length else 200
    features = torch.empty(2, config.num_mel_bins + config.num_fbank_bins, columns, device="meta")
    mask = torch.empty(2, columns, device="meta", dtype=torch.long)
    output = model.model.to("meta")._hear(features, mask, torch.empty(2, device="meta"), list(frames))
    counts = model.model.audio_encoder.count_audio_tokens(list(frames), columns)
    assert output.pooler_output.shape == (sum(counts), config.text_config.hidden_size)


def test_features_are_checked_in_one_read():
    config = tiny_config(fixed_length=False)
    model, processor = tiny_model(config), tiny_processor(config)
    features = processor.feature_extractor([noise(2), noise(1)], 16000, return_tensors="pt")
    with torch.no_grad(), Reads() as reads:
        model.get_audio_features(**features)
    assert reads.count == 1


class Reads(TorchFunctionMode):
    """Counts the values of tensors that Python asks for, each of which waits for a GPU."""

    NAMES = ("item", "tolist", "__bool__", "__int__", "__float__", "__index__", "cpu", "numpy")
    count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.count += getattr(function, "__name__", "") in self.NAMES
        return function(*args, **(kwargs or {}))


def test_a_cpu_reads_like_lengths_together_and_other_devices_all_that_they_can():
    encoder = tiny_model(tiny_config(max_segments_at_once=3)).model.audio_encoder
    frames = [100, 300, 98, 299, 301, 298]
    assert encoder.plan_passes(frames, torch.device("cpu")) == [[1, 3, 4], [5], [0, 2]]
    assert encoder.plan_passes(frames, torch.device("meta")) == [[1, 3, 4], [0, 2, 5]]


def test_segments_of_less_than_a_patch_are_refused(alone):
    model, processor = alone
    features = processor.feature_extractor(noise(2), 16000, return_tensors="pt")
    features["input_features_mask"][:, 15:] = 0
    with pytest.raises(ValueError, match="at least 16 real frames in every segment, got 15"):
        model.get_audio_features(**features)


def test_features_of_nothing_are_refused():
    with pytest.raises(ValueError, match="`feature_size` and `num_fbank_bins` must be at least 1, got 0 for both"):
        SalmonnFeatureExtractor(feature_size=0, num_fbank_bins=0)


def test_features_of_both_encoders_are_those_of_each(alone):
    both = SalmonnFeatureExtractor(chunk_length=4)([noise(3)], 16000)["input_features"]
    fbank = SalmonnFeatureExtractor(feature_size=0, chunk_length=4, fixed_length=False)([noise(3)], 16000)
    assert fbank["input_features"].shape == (1, 128, 400)
    assert (both[:, 80:] == fbank["input_features"]).all() and fbank["input_features_mask"].sum() == 298


def test_speech_encoder_is_whispers():
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    config = WhisperConfig(d_model=32, encoder_layers=2, encoder_ffn_dim=48, decoder_layers=1, **heads)
    torch.manual_seed(0)
    ours, whispers = SalmonnSpeechEncoder(config).eval(), WhisperEncoder(config).eval()
    whispers.load_state_dict(ours.state_dict())
    mel = torch.randn(2, 80, 3000)
    assert torch.equal(ours(mel).last_hidden_state, whispers(mel).last_hidden_state)
    everything = ours(mel, attention_mask=torch.ones(2, 1500, dtype=torch.bool)).last_hidden_state
    torch.testing.assert_close(everything, whispers(mel).last_hidden_state, atol=1e-5, rtol=0)
    positions = WhisperModel(config).encoder.embed_positions.weight  # a fixed sinusoid
    assert torch.equal(ours.embed_positions.weight, positions)


def test_positions_of_a_speech_encoder_that_is_not_in_the_checkpoint(tmp_path):
    model = tiny_model(tiny_config())
    positions = SalmonnSpeechEncoder(model.config.speech_config).embed_positions.weight
    state_dict = {k: v for k, v in model.state_dict().items() if "speech_encoder.embed_positions" not in k}
    model.save_pretrained(tmp_path, state_dict=state_dict)
    loaded = SalmonnForConditionalGeneration.from_pretrained(tmp_path)
    assert torch.equal(loaded.model.speech_encoder.embed_positions.weight, positions)


def test_segment_positions_tell_the_segments_of_a_clip_apart():
    config = tiny_config(segment_seconds=30, segment_position_embeddings=True)
    model, processor = tiny_model(config), tiny_processor(config)
    clip = torch.from_numpy(noise(30)).repeat(3).numpy()  # three equal segments
    features = processor.feature_extractor(clip, sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        first, second, third = model.get_audio_features(**features).pooler_output.unflatten(0, (3, -1))
        features["segment_ids"] = None  # as three clips
        rows = model.get_audio_features(**features).pooler_output.unflatten(0, (3, -1))
    assert (first - second).abs().max() > 1e-3 and (second - third).abs().max() > 1e-3
    for row in rows:
        torch.testing.assert_close(row, first, atol=1e-5, rtol=0)
    angles = torch.tensor([2.0, 2 * 1e-4])  # the ends of the sinusoid of the third segment
    stream = torch.zeros(1, 1, config.encoder_width)
    sinusoid = SalmonnAudioEncoder.segment_positions(torch.tensor([2]), stream)[0, 0]
    torch.testing.assert_close(sinusoid[[0, 31]], angles.sin())
    torch.testing.assert_close(sinusoid[[32, 63]], angles.cos())
