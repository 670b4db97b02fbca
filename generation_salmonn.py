# Copyright 2026 The SALMONN for Transformers authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""
What `generate` does for SALMONN beyond Transformers: transcription without a prompt, long clips, LoRA turned down, heads
masked.
"""

from contextlib import contextmanager

import torch
from torch import nn
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer
from transformers.generation import GenerationMixin, SuppressTokensLogitsProcessor
from transformers.generation.streamers import BaseStreamer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import logging


try:
    from .input_checks_salmonn import check_audio_embeds, check_generation, check_prompt
    from .loops_salmonn import find_loop
except ImportError:
    from input_checks_salmonn import check_audio_embeds, check_generation, check_prompt
    from loops_salmonn import find_loop


logger = logging.get_logger(__name__)

UNREPEATED_TOKENS = 4  # of an answer that is asked for again because it went round in circles
FILTER_BANK_FRAMES_PER_SECOND = 100
_OF_PROMPTS = {"attention_mask", "position_ids", "inputs_embeds"}  # tensors with a row for each prompt


def _can_copy_cache(generation_config, model_kwargs: dict) -> bool:
    """Whether a prefill leaves nothing by row but logits, and keys and values in a cache that can be copied row by row."""
    cache = model_kwargs.get("past_key_values")
    if type(cache) is not DynamicCache or cache.get_seq_length() > 0:  # a static one is made for all copies
        return False
    # others keep more than keys and values, the states of linear attention for one, which are not copied with them
    has_plain_layers = {type(layer) for layer in cache.layers} <= {DynamicLayer, DynamicSlidingWindowLayer}
    names = ("prefill_chunk_size", "output_attentions", "output_hidden_states")
    return has_plain_layers and not any(getattr(generation_config, name, None) for name in names)


class _PieceStreamer(BaseStreamer):
    """One stream for the pieces of a clip: without prompts but the first, and with the separator for an end but the last."""

    def __init__(self, streamer: BaseStreamer, num_pieces: int, separator: list[int] | None):
        self.streamer, self.num_left, self.separator = streamer, num_pieces, separator
        self.is_later_prompt = False

    def put(self, value: torch.Tensor):
        if not self.is_later_prompt:
            self.streamer.put(value)
        self.is_later_prompt = False

    def end(self):
        self.num_left -= 1
        if self.num_left == 0:
            self.streamer.end()
        elif self.separator:
            self.streamer.put(torch.tensor(self.separator))
        self.is_later_prompt = True


class SalmonnGenerationMixin(GenerationMixin):
    """Generation of [`SalmonnForConditionalGeneration`]."""

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.Tensor | None = None,
        *args,
        input_features: torch.Tensor | None = None,
        input_features_mask: torch.Tensor | None = None,
        segment_ids: torch.LongTensor | None = None,
        mel_features: torch.Tensor | None = None,
        fbank_features: torch.Tensor | None = None,
        audio_embeds: torch.Tensor | None = None,
        lora_scale: float | None = None,
        head_mask: torch.Tensor | None = None,
        **kwargs,
    ):
        r"""
        Generates answers, as [`~GenerationMixin.generate`] does, whose arguments are all accepted.

        Args:
            inputs (`torch.Tensor`, *optional*):
                `input_ids`, or `input_features` if floating point.
            args (`tuple`, *optional*):
                Passed on in their order: `generation_config`, `logits_processor`, ...
            input_features (`torch.Tensor` of shape `(segments, mel_bins + fbank_bins, frames)`, *optional*):
                Clips. Without `input_ids` they are transcribed, see [`~SalmonnForConditionalGeneration.transcribe`].
            input_features_mask (`torch.Tensor` of shape `(segments, frames)`, *optional*):
                1 for the filter bank frames that are real, 0 for padding.
            segment_ids (`torch.LongTensor` of shape `(segments,)`, *optional*):
                Place of each segment in its clip, from 0. Left out, each segment is a clip.
            mel_features (`torch.Tensor` of shape `(segments, mel_bins, frames)`, *optional*):
                With `fbank_features` in place of `input_features`.
            fbank_features (`torch.Tensor` of shape `(segments, frames, fbank_bins)`, *optional*):
                With `mel_features` in place of `input_features`.
            audio_embeds (`torch.Tensor` of shape `(total_audio_tokens, hidden_size)`, *optional*):
                `pooler_output` of `get_audio_features`, in place of `input_features`.
            lora_scale (`float`, *optional*):
                Factor on the LoRA scaling during this call: below 1 the LLM follows its instruction more and its
                audio training less (2310.13289, section 4.2), and 0 turns LoRA off.
            head_mask (`torch.Tensor` of shape `(num_hidden_layers, num_attention_heads)`, *optional*):
                Factors on what the LLM's attention heads give during this call. A mask of 0 and 1 says a task without an
                instruction (AHAMask, arXiv 2509.01787).

        Returns:
            Prompt and continuation if there was a prompt; new tokens only if audio came without `input_ids`.
        """
        inputs = kwargs.pop("input_ids", None) if inputs is None else inputs
        check_generation(inputs, {"generation_config": args[0] if args else None, **kwargs})
        if inputs is not None and inputs.is_floating_point():
            input_features, inputs = inputs, None
        if mel_features is not None or fbank_features is not None:
            input_features = self.model.audio_encoder.pack_features(mel_features, fbank_features)
        if input_features is not None and audio_embeds is not None:
            raise ValueError("At most one of `input_features` and `audio_embeds` can be given, got both.")
        has_prompt = inputs is not None or kwargs.get("inputs_embeds") is not None
        if audio_embeds is not None and not has_prompt:
            raise ValueError("`audio_embeds` needs `input_ids`, which say what belongs to which prompt, got none.")
        if input_features is not None and not has_prompt:
            # the ASR pipeline knows the mask of the features under the name of all masks
            mask = kwargs.pop("attention_mask", None)
            input_features_mask = mask if input_features_mask is None else input_features_mask
            return self.transcribe(
                input_features,
                input_features_mask,
                segment_ids,
                *args,
                lora_scale=lora_scale,
                head_mask=head_mask,
                **kwargs,
            )

        if audio_embeds is not None:
            check_audio_embeds(audio_embeds, self.config.text_config.hidden_size)
        check_prompt(
            inputs,
            kwargs.get("attention_mask"),
            kwargs.get("past_key_values") is not None,
            self.config.text_config.vocab_size,
        )
        if input_features is not None:
            self.model.audio_encoder.check_features(input_features, input_features_mask, segment_ids)
            self._warn_about_long_audio(input_features, input_features_mask, segment_ids)
            audio = {"input_features": input_features, "input_features_mask": input_features_mask}
            audio["segment_ids"] = segment_ids
            assistant = kwargs.get("assistant_model")
            # encoded ahead where a prompt is read in chunks, or by an assistant that takes text only
            if kwargs.get("prefill_chunk_size") or not (assistant is None or hasattr(assistant, "get_audio_features")):
                audio_embeds = self.get_audio_features(**audio, return_dict=True).pooler_output
            else:
                kwargs |= audio
        if audio_embeds is not None:
            kwargs["mm_encoder_outputs"] = {"audio": BaseModelOutputWithPooling(pooler_output=audio_embeds)}
        self._warn_about_long_prompts(inputs if inputs is not None else kwargs.get("inputs_embeds"))
        with self._scale_lora(lora_scale), self.mask_heads(head_mask):
            return super().generate(inputs, *args, **kwargs)

    @contextmanager
    def mask_heads(self, head_mask: torch.Tensor | None):
        """
        Context in which the LLM's attention heads give `head_mask` times what they give, of shape `(num_hidden_layers,
        num_attention_heads)`. Raises a `ValueError` if it is of another shape, or the LLM's heads cannot be reached.
        """
        if head_mask is None:
            yield
            return
        text_config = self.config.text_config
        shape = text_config.num_hidden_layers, text_config.num_attention_heads
        if not isinstance(head_mask, torch.Tensor) or head_mask.shape != shape:
            found = tuple(getattr(head_mask, "shape", ())) or type(head_mask).__name__
            raise ValueError(f"`head_mask` must be a tensor of shape (layers, heads) = {shape}, got {found}.")
        attentions = [getattr(layer, "self_attn", None) for layer in getattr(self.model.language_model, "layers", ())]
        outputs = [getattr(attention, "o_proj", None) for attention in attentions]
        if len(outputs) != shape[0] or None in outputs:
            raise ValueError(f"`head_mask` needs an LLM with `o_proj` in each layer, got a {text_config.model_type}.")

        def mask_input(factors):
            # `o_proj` reads the heads side by side
            def hook(module, args):
                heads = args[0].unflatten(-1, (len(factors), -1))
                return ((heads * factors.to(heads)[:, None]).flatten(-2), *args[1:])

            return hook

        hooks = [o_proj.register_forward_pre_hook(mask_input(row)) for o_proj, row in zip(outputs, head_mask)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @torch.no_grad()
    def transcribe(
        self,
        input_features: torch.Tensor,
        input_features_mask: torch.Tensor | None = None,
        segment_ids: torch.LongTensor | None = None,
        *args,
        **kwargs,
    ):
        r"""
        Transcribes clips with the prompt of `config.transcription_prompt_ids`. A clip of more than
        `config.max_audio_seconds` is transcribed segment by segment, `config.max_segments_at_once` at a time: cut it at
        silence, as the processor does for audio without text.

        A piece that is answered with the same words over and over, until it is cut off, is transcribed again with
        `no_repeat_ngram_size`, with a warning.

        Args:
            input_features (`torch.Tensor` of shape `(segments, mel_bins + fbank_bins, frames)`):
                Segments of clips; or, as the ASR pipeline carries them, clips of shape `(clips, frames, mel_bins +
                fbank_bins)` with all of their segments one behind the other, and segments of padding on either side.
            input_features_mask (`torch.Tensor` of shape `(segments, frames)` or `(clips, frames)`, *optional*):
                1 for the filter bank frames that are real, 0 for padding. Clips need it.
            segment_ids (`torch.LongTensor` of shape `(segments,)`, *optional*):
                Place of each segment in its clip, from 0. Left out, each row is a clip.
            args (`tuple`, *optional*):
                As for [`~GenerationMixin.generate`] after `inputs`.
            kwargs (`dict`, *optional*):
                Passed on to `generate`.

        Returns:
            New tokens `(clips, new_tokens)`, padded at their end, or with `return_dict_in_generate=True` the usual output
            with these as `sequences`, which is refused for clips that are transcribed segment by segment.
        """
        features, mask, segment_ids = self._split_clips(input_features, input_features_mask, segment_ids)
        is_long = self._find_long_clips(features, mask, segment_ids)
        # a piece is a prompt: a segment of a long clip, or all segments of a shorter one
        places = segment_ids.masked_fill(is_long, 0)
        counts = self._count_audio_tokens(features, mask, places)
        if not is_long.any():
            return self._answer_prompts(counts, features, mask, places, *args, **kwargs)
        if kwargs.get("return_dict_in_generate"):
            raise ValueError(
                "`return_dict_in_generate` needs clips that are transcribed in one piece, got one of more than "
                f"{self.config.max_audio_seconds} s (`config.max_audio_seconds`)."
            )
        starts = (places == 0).nonzero().flatten().tolist()
        clips = ((segment_ids == 0).cumsum(0) - 1)[starts].tolist()
        pieces, at_once = [], self.config.max_segments_at_once
        if kwargs.get("streamer") is not None:
            if clips[-1] > 0:
                raise ValueError(f"`streamer` takes one clip, got {clips[-1] + 1}.")
            separator = self.config.transcription_separator_ids
            kwargs["streamer"], at_once = _PieceStreamer(kwargs["streamer"], len(starts), separator), 1
        for first in range(0, len(starts), at_once):
            group = counts[first : first + at_once]
            rows = slice(starts[first], starts[first + at_once] if first + at_once < len(starts) else None)
            part = features[rows], None if mask is None else mask[rows], places[rows]
            output = self._answer_prompts(group, *part, *args, **kwargs)
            pieces += output.unflatten(0, (len(group), -1)).unbind(0)  # (sequences of the prompt, new_tokens) each
        return self._join_pieces(pieces, clips, *args, **kwargs)

    def _answer_prompts(
        self,
        audio_tokens: list[int],
        input_features: torch.Tensor,
        input_features_mask: torch.Tensor | None,
        segment_ids: torch.LongTensor,
        *args,
        **kwargs,
    ):
        """New tokens for the transcription prompt around clips of so many audio tokens."""
        input_ids, attention_mask = self._transcription_prompts(audio_tokens, input_features.device)
        outputs = self.generate(
            input_ids,
            *args,
            attention_mask=attention_mask,
            input_features=input_features,
            input_features_mask=input_features_mask,
            segment_ids=segment_ids,
            **kwargs,
        )
        if isinstance(outputs, torch.Tensor):
            answers = outputs[:, input_ids.shape[1] :]
            segments = input_features, input_features_mask, segment_ids
            return self._replace_loops(answers, audio_tokens, segments, *args, **kwargs)
        outputs.sequences = outputs.sequences[:, input_ids.shape[1] :]
        return outputs

    def _replace_loops(
        self,
        answers: torch.LongTensor,
        audio_tokens: list[int],
        segments: tuple[torch.Tensor, torch.Tensor | None, torch.LongTensor],
        *args,
        **kwargs,
    ) -> torch.LongTensor:
        """Transcribes again, without repeated phrases, what says the same words over and over until it is cut off."""
        pad, endings = self._find_endings(*args, **kwargs)
        loops = [row for row, ids in enumerate(answers.tolist()) if not endings & {*ids[-1:]} and find_loop(ids)]
        if not loops or kwargs.get("no_repeat_ngram_size") or len(answers) != len(audio_tokens):
            return answers
        said = f"{len(loops)} of {len(answers)} pieces of audio were answered with the same words over and over"
        if kwargs.get("streamer") is not None:
            logger.warning(f"{said}.")
            return answers
        logger.warning(f"{said}, and are transcribed again with `no_repeat_ngram_size={UNREPEATED_TOKENS}`.")
        features, mask, segment_ids = segments
        is_loop = torch.isin((segment_ids == 0).cumsum(0) - 1, torch.tensor(loops, device=segment_ids.device))
        part = features[is_loop], None if mask is None else mask[is_loop], segment_ids[is_loop]
        counts = [audio_tokens[row] for row in loops]
        again = self._answer_prompts(counts, *part, *args, **kwargs | {"no_repeat_ngram_size": UNREPEATED_TOKENS})
        width = max(answers.shape[1], again.shape[1])
        answers = nn.functional.pad(answers, (0, width - answers.shape[1]), value=pad)
        answers[loops] = nn.functional.pad(again, (0, width - again.shape[1]), value=pad)
        return answers

    def _find_endings(self, *args, **kwargs) -> tuple[int, set[int]]:
        """What pads an answer, and all that ends or pads one, with these arguments of `generate` after `inputs`."""
        config = args[0] if args else kwargs.get("generation_config")
        config = self.generation_config if config is None else config
        pad = kwargs.get("pad_token_id", config.pad_token_id) or 0
        eos = kwargs.get("eos_token_id", config.eos_token_id)
        return pad, {pad, *(eos if isinstance(eos, (list, tuple)) else [eos])}

    def _join_pieces(self, pieces: list[torch.LongTensor], clips: list[int], *args, **kwargs) -> torch.LongTensor:
        """Tokens of the pieces of each clip, `(sequences, new_tokens)` each, without what ends or pads a piece."""
        pad, endings = self._find_endings(*args, **kwargs)
        separator = self.config.transcription_separator_ids or []
        joined: list[list[int]] = []
        for number, piece in enumerate(pieces):
            for sequence, ids in enumerate(piece.tolist()):
                while ids and ids[-1] in endings:
                    ids.pop()
                if number > 0 and clips[number] == clips[number - 1]:
                    row = joined[sequence - len(piece)]
                    row += separator + ids if row and ids else ids
                else:
                    joined.append(ids)
        rows = [torch.tensor(ids, dtype=torch.long, device=pieces[0].device) for ids in joined]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)

    def _split_clips(
        self,
        input_features: torch.Tensor,
        input_features_mask: torch.Tensor | None,
        segment_ids: torch.LongTensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.LongTensor]:
        """Segments, `(segments, rows, frames)`, of clips that may be a row each, and the place of each in its clip."""
        input_features, input_features_mask, segment_ids = self.model.split_clips(
            input_features, input_features_mask, segment_ids
        )
        if segment_ids is None:
            segment_ids = input_features.new_zeros(len(input_features), dtype=torch.long)
        self.model.audio_encoder.check_features(input_features, input_features_mask, segment_ids)
        following = segment_ids[1:] == segment_ids[:-1] + 1
        if len(segment_ids) == 0 or segment_ids[0] != 0 or not (following | (segment_ids[1:] == 0)).all():
            raise ValueError(
                f"`segment_ids` must number the segments of each clip 0, 1, 2, ..., got {segment_ids.tolist()}."
            )
        return input_features, input_features_mask, segment_ids

    def _find_long_clips(
        self,
        input_features: torch.Tensor,
        input_features_mask: torch.Tensor | None,
        segment_ids: torch.LongTensor | None,
    ) -> torch.BoolTensor:
        """Which segments belong to a clip of more audio than the model was trained on, `(segments,)`."""
        segments = torch.zeros(len(input_features), dtype=torch.bool, device=input_features.device)
        if segment_ids is None or self.config.max_audio_seconds is None:
            return segments
        frames = self.model.audio_encoder.find_real_frames(input_features, input_features_mask).sum(-1)
        clips = (segment_ids == 0).cumsum(0) - 1
        frames_of_clips = torch.zeros_like(frames).index_add(0, clips, frames)
        # a filter bank has two frames less than its clip has columns
        return (frames_of_clips[clips] > self.config.max_audio_seconds * FILTER_BANK_FRAMES_PER_SECOND) & (
            torch.bincount(clips)[clips] > 1
        )

    def _count_audio_tokens(
        self,
        input_features: torch.Tensor,
        input_features_mask: torch.Tensor | None,
        segment_ids: torch.LongTensor | None,
    ) -> list[int]:
        """Audio tokens of each clip, of features that are checked."""
        encoder = self.model.audio_encoder
        is_real = encoder.find_real_frames(input_features, input_features_mask)
        counts = torch.tensor(encoder.count_audio_tokens(is_real.sum(-1).tolist(), is_real.shape[1]))
        starts = range(len(counts)) if segment_ids is None else (segment_ids == 0).nonzero().flatten().tolist()
        return [int(count.sum()) for count in counts.tensor_split(starts[1:])]

    def _transcription_prompts(
        self, audio_tokens: list[int], device: torch.device
    ) -> tuple[torch.LongTensor, torch.LongTensor]:
        """The prompt of `config.transcription_prompt_ids` around each clip, left-padded: ids and attention mask."""
        prompt = self.config.transcription_prompt_ids
        if prompt is None:
            logger.warning_once("This model has no `transcription_prompt_ids`: transcribing without an instruction.")
            bos = self.config.text_config.bos_token_id
            prompt = ([] if bos is None else [bos]) + [self.config.audio_token_id]
        position = prompt.index(self.config.audio_token_id)
        prompts = [
            prompt[:position] + [self.config.audio_token_id] * count + prompt[position + 1 :] for count in audio_tokens
        ]
        pad, longest = self.generation_config.pad_token_id or 0, max(map(len, prompts))
        input_ids = torch.tensor([[pad] * (longest - len(ids)) + ids for ids in prompts], device=device)
        lengths = torch.tensor([len(ids) for ids in prompts], device=device)
        attention_mask = torch.arange(longest, 0, -1, device=device) <= lengths[:, None]
        return input_ids, attention_mask.long()

    def _warn_about_long_audio(self, *segments: torch.Tensor | None):
        if self._find_long_clips(*segments).any():
            logger.warning(
                f"A clip is longer than the {self.config.max_audio_seconds} s that this model was trained on "
                "(`config.max_audio_seconds`): its answer may leave much of it out. `transcribe` goes piece by piece."
            )

    def _warn_about_long_prompts(self, prompts: torch.Tensor | None):
        longest = getattr(self.config.text_config, "max_position_embeddings", None)
        if prompts is not None and longest is not None and prompts.shape[1] > longest:
            logger.warning(
                f"Audio and text are {prompts.shape[1]} tokens, more than the {longest} that the LLM can attend to "
                "(`config.text_config.max_position_embeddings`): its answer will be of little use."
            )

    def _get_logits_processor(self, *args, **kwargs):
        # The placeholder is an input only. Decoding with drafts takes them of the prompt, and asks here what may follow.
        processors = super()._get_logits_processor(*args, **kwargs)
        processors.append(SuppressTokensLogitsProcessor([self.config.audio_token_id], device=self.device))
        return processors

    def prepare_inputs_for_generation(
        self, input_ids, past_key_values=None, inputs_embeds=None, is_first_iteration=False, **kwargs
    ):
        # an assistant, whose prefill counts as no first iteration, would be deaf; a single token is no prefill
        may_be_prefill = past_key_values is not None and kwargs.get("next_sequence_length") != 1
        is_empty = may_be_prefill and past_key_values.get_seq_length() == 0
        inputs = super().prepare_inputs_for_generation(
            input_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            is_first_iteration=is_first_iteration or is_empty,
            **kwargs,
        )
        if inputs.get("input_features") is None:  # dropped, as the rest of the audio is, after the prefill
            inputs.pop("segment_ids", None)
        return inputs

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids=None, **model_kwargs
    ):
        names = ("input_features", "input_features_mask", "segment_ids", "mm_encoder_outputs")
        if expand_size > 1 and any(model_kwargs.get(name) is not None for name in names):
            # encoded here, once: copies of a prompt need all rows of its audio, in order
            audio = {name: model_kwargs.pop(name, None) for name in names}
            encoded = audio.pop("mm_encoder_outputs")
            encoded = encoded["audio"] if encoded else self.get_audio_features(**audio, return_dict=True)
            rows = self._expand_audio(encoded.pooler_output, expand_size, input_ids, **model_kwargs)
            encoded = {"audio": BaseModelOutputWithPooling(pooler_output=rows)}
            input_ids, model_kwargs = super()._expand_inputs_for_generation(
                expand_size, is_encoder_decoder, input_ids, **model_kwargs
            )
            return input_ids, {**model_kwargs, "mm_encoder_outputs": encoded}
        return super()._expand_inputs_for_generation(expand_size, is_encoder_decoder, input_ids, **model_kwargs)

    def _prefill(self, input_ids, generation_config, model_kwargs, is_first_iteration=True):
        """Copies of a prompt, for beams or several sequences, are read once: keys and values are copied, not computed."""
        copies = max(generation_config.num_beams or 1, generation_config.num_return_sequences or 1)
        tensors = {name: value for name, value in model_kwargs.items() if isinstance(value, torch.Tensor)}
        has_rows = all(name in _OF_PROMPTS and len(tensor) == len(input_ids) for name, tensor in tensors.items())
        if copies == 1 or not (is_first_iteration and has_rows and _can_copy_cache(generation_config, model_kwargs)):
            return super()._prefill(input_ids, generation_config, model_kwargs, is_first_iteration)
        input_ids = input_ids[::copies]
        once = model_kwargs | {name: tensor[::copies] for name, tensor in tensors.items()}
        if once.get("mm_encoder_outputs"):
            mask = self.model.find_placeholders(input_ids, once.get("inputs_embeds"), once.get("attention_mask"))
            counts = mask.sum(-1).tolist()
            rows = once["mm_encoder_outputs"]["audio"].pooler_output.split([count * copies for count in counts])
            rows = torch.cat([copied[:count] for copied, count in zip(rows, counts)])
            once["mm_encoder_outputs"] = {"audio": BaseModelOutputWithPooling(pooler_output=rows)}
        outputs = super()._prefill(input_ids, generation_config, once, is_first_iteration)
        outputs.past_key_values.batch_repeat_interleave(copies)
        outputs.logits = outputs.logits.repeat_interleave(copies, dim=0)
        return outputs

    def _expand_audio(
        self,
        audio_embeds: torch.Tensor,
        expand_size: int,
        input_ids: torch.LongTensor | None,
        inputs_embeds: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values=None,
        **kwargs,
    ) -> torch.Tensor:
        """[A, B | C] -> [A, B, A, B | C, C] for a prompt with A and B, and one with C."""
        mask = self.model.find_placeholders(input_ids, inputs_embeds, attention_mask)
        if past_key_values is not None and mask.sum() != len(audio_embeds):
            mask = mask[:, past_key_values.get_seq_length() :]  # what is in the cache was heard before
        self.model.check_placeholders(mask.sum(), len(audio_embeds))
        return torch.cat([rows.repeat(expand_size, 1) for rows in audio_embeds.split(mask.sum(-1).tolist())])
