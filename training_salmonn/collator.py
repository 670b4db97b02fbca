# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Collation: rows of training data to model inputs, with labels on the answers only."""

import random
from dataclasses import dataclass, replace

import numpy as np
import torch
from transformers import TrainerCallback
from transformers.feature_extraction_utils import BatchFeature
from transformers.trainer_utils import has_length

from data_salmonn.audio import SAMPLING_RATE, SILENCE_SECONDS, read_audio
from data_salmonn.chats import answers_of, to_conversation
from data_salmonn.manifests import MAX_TEXT_TOKENS, check_text
from data_salmonn.prompts import PromptBank
from training_salmonn.spec_augment import mask_mel, mask_states


CONCATENATED_TASK = "asr"
WRITTEN_WITHOUT_SPACES = ("zh", "ja", "th")


@dataclass(frozen=True)
class _Sample:
    """
    A row that is ready: its clip `(samples,)` of 16 kHz, what is asked about it, and the answer; or a `conversation`
    that brings all of them.
    """

    id: str
    clip: np.ndarray | None
    prompt: str
    text: str
    num_tokens: int
    language: str | None
    can_be_joined: bool
    conversation: list[dict] | None = None


class SalmonnDataCollator:
    """
    Makes batches of rows as [`load_training_data`] returns them, through the processor: the model hears the clip, reads
    a phrasing of the task drawn from the prompt bank, and learns the answer and its end token.

    Every random choice depends on `seed`, the epoch and the `id` of the row, and on nothing else: not on the number of
    workers or processes, and not on what came before, so a run that is resumed goes on as it would have.

    Args:
        processor (`SalmonnProcessor`):
            The processor of the model.
        prompt_bank (`PromptBank`, *optional*):
            What is asked for each task. That of the project by default.
        max_text_tokens (`int`, *optional*, defaults to 300):
            Most tokens of an answer, its end token included. A row with more is refused, never cut.
        concatenate_probability (`float`, *optional*, defaults to 0.0):
            Random concatenation (2309.13963): the probability that a clip of the task `asr` is joined with other ones
            of its batch, one after the other, and its text with theirs. Each row is still seen once an epoch, in a
            batch of fewer and longer clips.
        concatenate_max_seconds (`float`, *optional*, defaults to 30.0):
            Longest clip that joining makes. How long one gets is drawn anew each time.
        spec_augment (`float`, *optional*, defaults to 0.0):
            Probability that bands and moments of a clip's mel rows are masked (SpecAugment, 1904.08779); with a cache of
            features, channels and moments of what the encoders gave.
        word_dropout (`float`, *optional*, defaults to 0.0):
            Probability that the LLM reads another token, drawn from the vocabulary, in the place of one of an answer
            (1511.06349). Labels stay as they are: what was said before tells less of what comes, and what is heard more.
        seed (`int`, *optional*, defaults to 0):
            Seed of all random choices.
        padding_side (`str`, *optional*, defaults to `"right"`):
            Where shorter texts are padded. Padding is masked and never learnt, on either side.
        pad_to_multiple_of (`int`, *optional*):
            Pads texts to a multiple of this many tokens.
        silence_seconds (`float`, *optional*, defaults to 0.1):
            Silence between the clips of a row that has a list of them.
        use_test_prompts (`bool`, *optional*, defaults to `False`):
            Whether to ask each task in the one phrasing meant for evaluation.

    Trainer must be told to leave the columns alone: `remove_unused_columns=False`.
    """

    def __init__(
        self,
        processor,
        prompt_bank: PromptBank | None = None,
        max_text_tokens: int = MAX_TEXT_TOKENS,
        concatenate_probability: float = 0.0,
        concatenate_max_seconds: float = 30.0,
        spec_augment: float = 0.0,
        word_dropout: float = 0.0,
        seed: int = 0,
        padding_side: str = "right",
        pad_to_multiple_of: int | None = None,
        silence_seconds: float = SILENCE_SECONDS,
        use_test_prompts: bool = False,
    ):
        if not 0 <= concatenate_probability <= 1:
            raise ValueError(f"`concatenate_probability` must be in [0, 1], got {concatenate_probability}.")
        if not concatenate_max_seconds > 0:
            raise ValueError(f"`concatenate_max_seconds` must be positive, got {concatenate_max_seconds}.")
        if not 0 <= spec_augment <= 1:
            raise ValueError(f"`spec_augment` must be in [0, 1], got {spec_augment}.")
        if not 0 <= word_dropout <= 1:
            raise ValueError(f"`word_dropout` must be in [0, 1], got {word_dropout}.")
        if padding_side not in ("left", "right"):
            raise ValueError(f"`padding_side` must be 'left' or 'right', got {padding_side!r}.")
        self._is_cached = getattr(processor.feature_extractor, "is_cached", False)
        if concatenate_probability and self._is_cached:
            raise ValueError(
                "`concatenate_probability` makes clips that no cache of features can hold, so it must be 0 with one, "
                f"got {concatenate_probability}."
            )
        if spec_augment and not self._is_cached and not processor.feature_extractor.feature_size:
            raise ValueError(f"`spec_augment` masks mel rows, which this model does not read, got {spec_augment}.")
        self.processor = processor
        self.prompt_bank = prompt_bank or PromptBank.load()
        self.max_text_tokens = max_text_tokens
        self.concatenate_probability = concatenate_probability
        self.concatenate_max_seconds = concatenate_max_seconds
        self.spec_augment = spec_augment
        self.word_dropout = word_dropout
        self.seed = seed
        self.padding_side = padding_side
        self.pad_to_multiple_of = pad_to_multiple_of
        self.silence_seconds = silence_seconds
        self.use_test_prompts = use_test_prompts
        # `all_special_ids` leaves out what a tokenizer has of special tokens without a role, those of code in SmolLM2 for one
        added = processor.tokenizer.added_tokens_decoder.items()
        self._special_ids = {
            *processor.tokenizer.all_special_ids,
            *(number for number, token in added if token.special),
        }
        self._word_ids = sorted({*range(len(processor.tokenizer))} - self._special_ids) if word_dropout else []
        # in shared memory, where workers that outlive an epoch see it change
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Random choices are other ones in each epoch: say which one begins. `EpochCallback` does for `Trainer`."""
        self._epoch.fill_(int(epoch))

    def __call__(self, rows: list[dict]) -> BatchFeature:
        """
        Args:
            rows (`list[dict]`):
                Rows with `audio`, `text` and `task` or `question`, and `language` and `id` if they have them; or with
                `audio` and `messages`, a conversation all of whose answers are learnt.

        Returns:
            [`BatchFeature`]: `input_ids`, `attention_mask` and `labels` (-100 but for answers and their end tokens) of
            shape `(batch_size, sequence_length)`, `input_features` and `input_features_mask` of all segments.

        Raises:
            ValueError: on a row that cannot be used. It names the row.
        """
        if not rows:
            raise ValueError("`rows` must hold at least one row, got none.")
        samples = [self._prepare(row, index) for index, row in enumerate(rows)]
        if self.concatenate_probability:
            samples = self._concatenate(samples)
        conversations = [self._converse(sample) for sample in samples]
        inputs = self.processor.apply_chat_template(
            conversations,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={
                "output_labels": True,
                "padding_side": self.padding_side,
                "pad_to_multiple_of": self.pad_to_multiple_of,
                "audio_kwargs": {"padding": "longest"},
            },
        )
        if self.spec_augment and "input_features" in inputs:
            self._mask(inputs, [(sample.id, _count_clips(turns)) for sample, turns in zip(samples, conversations)])
        if self.word_dropout:
            self._drop_words(inputs, samples)
        return inputs

    def _drop_words(self, inputs: BatchFeature, samples: list[_Sample]) -> None:
        """Word dropout: some tokens of the answers are read as others, and learnt as they are."""
        for ids, labels, sample in zip(inputs["input_ids"], inputs["labels"], samples, strict=True):
            rng = self._rng("drop", sample.id)
            for position in (labels != -100).nonzero().flatten().tolist():
                if int(ids[position]) not in self._special_ids and rng.random() < self.word_dropout:
                    ids[position] = rng.choice(self._word_ids)

    def _mask(self, inputs: BatchFeature, clips: list[tuple[str, int]]) -> None:
        """SpecAugment on some of the clips, of which each row has so many, in their order."""
        rngs = iter([self._rng("mask", row, str(number)) for row, count in clips for number in range(count)])
        mel_bins = self.processor.feature_extractor.feature_size
        mask = inputs["input_features_mask"]
        for segment, place in enumerate(inputs["segment_ids"].tolist()):
            if place == 0:  # the first segment of a clip
                rng = next(rngs)
                is_masked = rng.random() < self.spec_augment
            if is_masked and self._is_cached:  # (encoder_width, frames), of two columns each
                mask_states(inputs["input_features"][segment], -(-int(mask[segment].sum()) // 2), rng)
            elif is_masked:
                mask_mel(inputs["input_features"][segment, :mel_bins], int(mask[segment].sum()), rng)

    def _prepare(self, row: dict, index: int) -> _Sample:
        """Checks a row and loads its clip."""
        row_id = str(row.get("id") or f"row {index} of the batch")
        try:
            if row.get("messages"):
                return self._prepare_chat(row_id, row)
            text, task, question = row.get("text"), row.get("task"), row.get("question")
            problems = check_text(text, self.processor.tokenizer, self.max_text_tokens)
            if problems:
                raise ValueError("; ".join(problems))
            language = row.get("language")
            if self.use_test_prompts:
                prompt = self.prompt_bank.test_prompt(task, question)
            else:
                rng = self._rng(row_id)
                prompt = self.prompt_bank.sample(task, question, language, rng)
            clip = read_audio(row.get("audio"), self.silence_seconds)
            name = None if task is None else self.prompt_bank[task].name
        except (ValueError, TypeError) as error:
            raise ValueError(f"`rows` holds {row_id}, which cannot be used: {error}") from error
        num_tokens = self._count_tokens(text) if self.concatenate_probability else 0
        return _Sample(row_id, clip, prompt, text, num_tokens, language, name == CONCATENATED_TASK and not question)

    def _prepare_chat(self, row_id: str, row: dict) -> _Sample:
        """A conversation with its clips, each in its place."""
        answers, clips = answers_of(row["messages"]), row.get("audio")
        problems = [p for text in answers for p in check_text(text, self.processor.tokenizer, self.max_text_tokens)]
        if problems:
            raise ValueError("; ".join(problems))
        clips = [read_audio(clip) for clip in (clips if isinstance(clips, list) else [clips])]
        conversation = to_conversation(row["messages"], clips)
        return _Sample(row_id, None, "", answers[-1], 0, None, can_be_joined=False, conversation=conversation)

    def _rng(self, *names: str) -> random.Random:
        # seeded with a string, which Python hashes alike in every process
        return random.Random("\n".join((str(self.seed), str(self.epoch), *names)))

    def _count_tokens(self, text: str) -> int:
        return len(self.processor.tokenizer(text, add_special_tokens=False).input_ids) + 1

    def _concatenate(self, samples: list[_Sample]) -> list[_Sample]:
        """Joins clips of speech recognition at random (2309.13963); all others stay as they are."""
        rng = self._rng("concatenate", *(sample.id for sample in samples))
        waiting = [sample for sample in samples if sample.can_be_joined]
        joined = [sample for sample in samples if not sample.can_be_joined]
        rng.shuffle(waiting)
        while waiting:
            sample = waiting.pop(0)
            if rng.random() < self.concatenate_probability:
                # a length of its own for each, or else all would be as long as they can be
                limit = rng.uniform(len(sample.clip) / SAMPLING_RATE, self.concatenate_max_seconds) * SAMPLING_RATE
                for other in list(waiting):
                    if other.language != sample.language or len(sample.clip) + len(other.clip) > limit:
                        continue
                    longer = self._join(sample, other)
                    if longer.num_tokens <= self.max_text_tokens:
                        waiting.remove(other)
                        sample = longer
            joined.append(sample)
        return joined

    def _join(self, first: _Sample, second: _Sample) -> _Sample:
        """The clips one after the other, and their texts, under the prompt of the first."""
        text = first.text.rstrip() + ("" if first.language in WRITTEN_WITHOUT_SPACES else " ") + second.text.lstrip()
        return replace(
            first,
            id=f"{first.id}+{second.id}",
            clip=np.concatenate([first.clip, second.clip]),
            text=text,
            num_tokens=self._count_tokens(text),
        )

    @staticmethod
    def _converse(sample: _Sample) -> list[dict]:
        if sample.conversation is not None:
            return sample.conversation
        content = [{"type": "audio", "audio": sample.clip}, {"type": "text", "text": sample.prompt}]
        return [{"role": "user", "content": content}, {"role": "assistant", "content": sample.text}]


def _count_clips(conversation: list[dict]) -> int:
    contents = [turn["content"] for turn in conversation if not isinstance(turn["content"], str)]
    return sum(part["type"] == "audio" for content in contents for part in content)


class EpochCallback(TrainerCallback):
    """
    Tells a collator which epoch `Trainer` begins, so that its random choices differ from epoch to epoch. With streamed
    data an epoch is one pass over the stream.
    """

    def __init__(self, collator: SalmonnDataCollator):
        self.collator = collator
        self._next_epoch: int | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        self._next_epoch = None

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        if self._next_epoch is None:
            # 2.5 where a run is resumed in the third epoch; of a stream, whose length Trainer does not know, it is the
            # share of `max_steps`, and a resumed run begins with the first pass
            is_stream = train_dataloader is not None and not has_length(train_dataloader)
            self._next_epoch = 0 if is_stream else int((state.epoch or 0) + 1e-6)
        self.collator.set_epoch(self._next_epoch)
        self._next_epoch += 1
