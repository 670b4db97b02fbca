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

"""PyTorch BEATs: a Transformer over patches of a filter bank (arXiv 2212.09058, section 3.1)."""

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import ParametrizationList
from transformers import AutoModel, AutoModelForAudioClassification
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring, can_return_tuple
from transformers.utils.generic import maybe_autocast, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs


try:
    from .configuration_beats import BeatsConfig
except ImportError:
    from configuration_beats import BeatsConfig


def relative_position_buckets(relative_position: torch.Tensor, num_buckets: int, max_distance: int) -> torch.Tensor:
    """
    Buckets of relative positions (key minus query), as in T5: half of them for each direction; near positions have one
    each, farther ones share logarithmically growing buckets up to `max_distance`, where the last begins.
    """
    num_buckets = num_buckets // 2
    num_exact = num_buckets // 2
    distance = relative_position.abs()
    log_ratio = torch.log(distance.clamp(min=1).float() / num_exact) / math.log(max_distance / num_exact)
    far = num_exact + (log_ratio * (num_buckets - num_exact)).long()
    bucket = torch.where(distance < num_exact, distance, far.clamp(max=num_buckets - 1))
    return bucket + num_buckets * (relative_position > 0).long()


class BeatsFeatureProjection(nn.Module):
    """Normalises patch embeddings and widens them to the hidden size."""

    def __init__(self, config: BeatsConfig):
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.patch_embed_dim, eps=config.layer_norm_eps)
        # CODEPATH: the released code has no projection where the two widths are equal
        if config.patch_embed_dim == config.hidden_size:
            self.projection = nn.Identity()
        else:
            self.projection = nn.Linear(config.patch_embed_dim, config.hidden_size)
        self.dropout = nn.Dropout(config.feat_proj_dropout)

    def forward(self, patch_embeddings: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.projection(self.layer_norm(patch_embeddings)))


class BeatsPositionalConv(nn.Conv1d):
    """A convolution that is right in bfloat16 on every CPU.

    With AMX instructions, oneDNN's bfloat16 convolution is wrong where a group has less than 16 channels
    (a like fault: pytorch/pytorch#163347), as in small BEATs. Such a group is convolved in float32 there.
    """

    def _conv_forward(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        # weight: (out_channels, channels of a group, kernel_size)
        if input.device.type != "cpu" or weight.shape[1] >= 16:
            return super()._conv_forward(input, weight, bias)
        with maybe_autocast("cpu", enabled=False):
            bias = None if bias is None else bias.float()
            return super()._conv_forward(input.float(), weight.float(), bias).to(input.dtype)


class BeatsPositionalConvEmbedding(nn.Module):
    """Encodes the absolute position of a token by a wide convolution over the tokens around it."""

    def __init__(self, config: BeatsConfig):
        super().__init__()
        kernel_size = config.num_conv_pos_embeddings
        self.conv = BeatsPositionalConv(
            config.hidden_size,
            config.hidden_size,
            kernel_size,
            padding=kernel_size // 2,
            groups=config.num_conv_pos_embedding_groups,
        )
        self.conv = weight_norm(self.conv, dim=2)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        position_embeddings = self.conv(hidden_states.transpose(1, 2))
        # an even kernel, padded by half its size on both sides, gives one output too many
        position_embeddings = position_embeddings[..., : hidden_states.shape[1]]
        return self.activation(position_embeddings).transpose(1, 2)


class BeatsRelativePositionBias(nn.Embedding):
    """A learned scalar per head and bucket of relative positions, shared by all layers."""

    def __init__(self, config: BeatsConfig):
        super().__init__(config.num_buckets, config.num_attention_heads)
        self.max_distance = config.max_bucket_distance

    def forward(self, sequence_length: int) -> torch.Tensor:
        """Returns the bias of each query and key, shape `(1, num_heads, sequence_length, sequence_length)`."""
        # Row q of the bias is the window [-q, length - q) of the 2 * length - 1 relative positions: these are looked
        # up once and their windows copied, from the last query to the first.
        relative_position = torch.arange(1 - sequence_length, sequence_length, device=self.weight.device)
        bucket = relative_position_buckets(relative_position, self.num_embeddings, self.max_distance)
        # contiguous: every layer reads all of it, row by row
        bias = super().forward(bucket).transpose(0, 1).contiguous()
        # CODEPATH: compiled and exported programs look every pair up: ONNX has no operation for overlapping windows
        if torch.compiler.is_compiling():
            positions = torch.arange(sequence_length, device=bias.device)
            return bias[:, positions[None] - positions[:, None] + sequence_length - 1].unsqueeze(0)
        return bias.unfold(1, sequence_length, 1).flip(1).unsqueeze(0)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Unpack[TransformersKwargs],
):
    attn_weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        attn_weights = attn_weights + attention_mask

    attn_weights = nn.functional.softmax(attn_weights, dim=-1, dtype=torch.float32).to(query.dtype)
    attn_weights = nn.functional.dropout(attn_weights, p=dropout, training=module.training)
    attn_output = torch.matmul(attn_weights, value).transpose(1, 2).contiguous()

    return attn_output, attn_weights


class BeatsAttention(nn.Module):
    """Self-attention with a relative position bias that each query gates (arXiv 2212.09058, equation 3)."""

    def __init__(self, config: BeatsConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        self.is_causal = False

        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.gru_rel_pos_linear = nn.Linear(self.head_dim, 8)
        self.gru_rel_pos_const = nn.Parameter(torch.empty(1, config.num_attention_heads, 1, 1))

    def position_gate(self, query: torch.Tensor) -> torch.Tensor:
        """How much each query heeds the position bias, shape `(batch_size, num_heads, sequence_length, 1)`."""
        gates = self.gru_rel_pos_linear(query).unflatten(-1, (2, 4)).sum(dim=-1)
        update, reset = gates.sigmoid().split(1, dim=-1)
        return update * (reset * self.gru_rel_pos_const - 1.0) + 2.0

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_bias: torch.Tensor,
        padding_bias: torch.Tensor,
        bias_buffer: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        hidden_shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        # one after the other: engines would fuse three calls and share out their heads, but not the constants of each head
        query_states, key_states, value_states = [
            projection(hidden_states).view(hidden_shape).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        ]

        # The largest tensor of the model: written in a single pass, gate and padding together.
        gate = self.position_gate(query_states)
        attention_bias = torch.addcmul(padding_bias, gate, position_bias, out=bias_buffer)

        attention_interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        attn_output, attn_weights = attention_interface(
            self,
            query_states,
            key_states,
            value_states,
            attention_mask=attention_bias,
            dropout=0.0 if not self.training else self.attention_dropout,
            scaling=self.scaling,
            **kwargs,
        )
        attn_output = attn_output.reshape(hidden_states.shape)
        return self.out_proj(attn_output), attn_weights


class BeatsEncoderLayer(GradientCheckpointingLayer):
    """A post-norm Transformer layer whose residuals are scaled up, as DeepNorm does (arXiv 2203.00555)."""

    def __init__(self, config: BeatsConfig, layer_idx: int):
        super().__init__()
        # CODEPATH: every released BEATs uses DeepNorm; without it this is the plain post-norm layer
        self.residual_scale = (2 * config.num_hidden_layers) ** 0.25 if config.deep_norm else 1.0
        self.self_attn = BeatsAttention(config, layer_idx)
        self.self_attn_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.activation = ACT2FN[config.hidden_act]
        self.hidden_dropout = config.hidden_dropout
        self.activation_dropout = config.activation_dropout

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_bias: torch.Tensor,
        padding_bias: torch.Tensor,
        bias_buffer: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        residual = hidden_states * self.residual_scale
        hidden_states, _ = self.self_attn(hidden_states, position_bias, padding_bias, bias_buffer, **kwargs)
        hidden_states = nn.functional.dropout(hidden_states, p=self.hidden_dropout, training=self.training)
        hidden_states = self.self_attn_layer_norm(residual + hidden_states)

        residual = hidden_states * self.residual_scale
        hidden_states = self.activation(self.fc1(hidden_states))
        hidden_states = nn.functional.dropout(hidden_states, p=self.activation_dropout, training=self.training)
        hidden_states = self.fc2(hidden_states)
        hidden_states = nn.functional.dropout(hidden_states, p=self.hidden_dropout, training=self.training)
        return self.final_layer_norm(residual + hidden_states)


@auto_docstring(custom_intro="An abstract class that initialises, loads and saves the weights of all BEATs models.")
class BeatsPreTrainedModel(PreTrainedModel):
    config: BeatsConfig
    base_model_prefix = "beats"
    main_input_name = "input_features"
    input_modalities = "audio"
    supports_gradient_checkpointing = True
    _no_split_modules = ["BeatsEncoderLayer", "BeatsPositionalConvEmbedding"]
    _input_embed_layer = "patch_embedding"
    _supports_sdpa = True
    _supports_flash_attn = False  # float position bias
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": BeatsEncoderLayer, "attentions": BeatsAttention}

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, BeatsAttention):
            init.ones_(module.gru_rel_pos_const)
        elif isinstance(module, ParametrizationList):
            # The positional convolution owns its direction and norms here: its `weight` is computed from them.
            _, _, kernel_size = module.original1.shape
            init.normal_(module.original1, mean=0.0, std=2 / math.sqrt(kernel_size * self.config.hidden_size))
            init.copy_(module.original0, torch.norm_except_dim(module.original1, pow=2, dim=2))

    def save_pretrained(self, save_directory, *args, **kwargs):
        # A class remembers one auto class only, but a folder of either model serves both.
        self.config.auto_map = {
            **(getattr(self.config, "auto_map", None) or {}),
            "AutoModel": "modeling_beats.BeatsModel",
            "AutoModelForAudioClassification": "modeling_beats.BeatsForAudioClassification",
        }
        return super().save_pretrained(save_directory, *args, **kwargs)

    def _get_feat_extract_output_lengths(self, input_lengths: torch.Tensor | int) -> torch.Tensor | int:
        """Number of tokens of clips of so many frames: all patches of each whole column of `patch_size` frames."""
        return input_lengths // self.config.patch_size * self.config.num_patch_bands

    def _get_feature_vector_attention_mask(self, attention_mask: torch.Tensor) -> torch.Tensor:
        """
        Mask of the tokens, boolean of shape `(batch_size, tokens)`, from the mask of the frames. A column of patches
        is real if all its frames are: these are the columns that the clip alone would have.
        """
        num_columns = attention_mask.shape[1] // self.config.patch_size
        columns = attention_mask[:, : num_columns * self.config.patch_size].bool()
        columns = columns.unflatten(1, (num_columns, self.config.patch_size)).all(dim=-1)
        return columns.repeat_interleave(self.config.num_patch_bands, dim=1)


@auto_docstring(
    custom_intro="""
    The BEATs encoder: a clip's filter bank is cut into square patches, and a Transformer encodes these. The tokens are
    ordered by time first and frequency second: `num_mel_bins // patch_size` consecutive tokens are the bands of one
    column of `patch_size` frames, from low to high.
    """
)
class BeatsModel(BeatsPreTrainedModel):
    def __init__(self, config: BeatsConfig):
        super().__init__(config)
        self.patch_embedding = nn.Conv2d(
            1, config.patch_embed_dim, config.patch_size, stride=config.patch_size, bias=config.conv_bias
        )
        self.feature_projection = BeatsFeatureProjection(config)
        self.pos_conv_embed = BeatsPositionalConvEmbedding(config)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.relative_attention_bias = BeatsRelativePositionBias(config)
        self.layers = nn.ModuleList(
            [BeatsEncoderLayer(config, layer_idx) for layer_idx in range(config.num_hidden_layers)]
        )
        self.gradient_checkpointing = False

        self.post_init()

    @auto_docstring
    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | BaseModelOutput:
        r"""
        input_features (`torch.Tensor` of shape `(batch_size, frames, num_mel_bins)`):
            Normalised filter banks of [`BeatsFeatureExtractor`]. The last `frames % patch_size` frames are dropped.
        attention_mask (`torch.Tensor` of shape `(batch_size, frames)`, *optional*):
            1 for real frames and 0 for padded ones, which must lie behind the real ones. Padding changes nothing: the
            tokens of a clip are those it has alone, and the tokens behind them are zero.
        """
        if input_features.ndim != 3 or input_features.shape[2] != self.config.num_mel_bins:
            raise ValueError(
                f"`input_features` must be of shape (batch_size, frames, {self.config.num_mel_bins}), got "
                f"{tuple(input_features.shape)}."
            )
        if input_features.shape[1] < self.config.patch_size:
            raise ValueError(
                f"`input_features` must have at least {self.config.patch_size} frames, one column of patches, got "
                f"{input_features.shape[1]}."
            )
        if attention_mask is not None and attention_mask.shape != input_features.shape[:2]:
            raise ValueError(
                f"`attention_mask` must be of shape {tuple(input_features.shape[:2])}, as `input_features`, got "
                f"{tuple(attention_mask.shape)}."
            )

        patch_embeddings = self.patch_embedding(input_features.to(self.patch_embedding.weight.dtype).unsqueeze(1))
        hidden_states = self.feature_projection(patch_embeddings.flatten(2).transpose(1, 2))

        padding_bias = hidden_states.new_zeros(1, 1, 1, hidden_states.shape[1])
        if attention_mask is not None:
            is_padding = ~self._get_feature_vector_attention_mask(attention_mask).to(hidden_states.device)
            # the positional convolution sees the zeros that it pads a clip with
            hidden_states = hidden_states.masked_fill(is_padding[..., None], 0.0)
            # half of the lowest number, so that adding the position bias cannot overflow to -inf
            lowest = torch.finfo(hidden_states.dtype).min / 2
            padding_bias = padding_bias.masked_fill(is_padding[:, None, None, :], lowest)

        hidden_states = hidden_states + self.pos_conv_embed(hidden_states)
        hidden_states = self.dropout(self.layer_norm(hidden_states))
        position_bias = self.relative_attention_bias(hidden_states.shape[1])
        # Without gradients one buffer serves all layers: to fault in fresh pages for 30 s of audio takes the CPU ten
        # times as long as to fill them. With gradients each layer needs its own.
        bias_buffer = None
        if not torch.is_grad_enabled():
            bias_buffer = position_bias.new_empty(hidden_states.shape[0], *position_bias.shape[1:])

        for layer in self.layers:
            # CODEPATH: LayerDrop skips whole layers, in training only
            if self.training and self.config.layerdrop > 0 and torch.rand([]) < self.config.layerdrop:
                continue
            # all positional: reentrant checkpointing has gradients for positional arguments only
            hidden_states = layer(hidden_states, position_bias, padding_bias, bias_buffer, **kwargs)

        if attention_mask is not None:
            hidden_states = hidden_states.masked_fill(is_padding[..., None], 0.0)
        return BaseModelOutput(last_hidden_state=hidden_states)


@auto_docstring(
    custom_intro="""
    BEATs with a linear classifier on every token, whose logits are averaged over the clip, as in the fine-tuned
    checkpoints: they tag a clip with the sound events of AudioSet, any number of them at once.
    """
)
class BeatsForAudioClassification(BeatsPreTrainedModel):
    def __init__(self, config: BeatsConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.beats = BeatsModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

        self.post_init()

    def freeze_base_model(self):
        """Disable the gradients of the encoder, so that training changes the classifier only."""
        for parameter in self.beats.parameters():
            parameter.requires_grad = False

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | SequenceClassifierOutput:
        r"""
        input_features (`torch.Tensor` of shape `(batch_size, frames, num_mel_bins)`):
            Normalised filter banks of [`BeatsFeatureExtractor`].
        attention_mask (`torch.Tensor` of shape `(batch_size, frames)`, *optional*):
            1 for real frames and 0 for padded ones. Padded frames have no part in the logits.
        labels (`torch.Tensor` of shape `(batch_size, num_labels)` or `(batch_size,)`, *optional*):
            For `"multi_label_classification"` (binary cross-entropy) the 0 or 1 of each label, or one integer index
            per clip that has a single label. For `"single_label_classification"` (cross-entropy) the index of the
            label. For `"regression"` (mean squared error) the values.
        """
        outputs = self.beats(input_features, attention_mask=attention_mask, **kwargs)
        logits = self.classifier(self.dropout(outputs.last_hidden_state))

        if attention_mask is None:
            logits = logits.mean(dim=1)
        else:
            is_real = self._get_feature_vector_attention_mask(attention_mask).to(logits.device)
            num_real = is_real.sum(dim=1, keepdim=True).clamp(min=1)
            logits = logits.masked_fill(~is_real[..., None], 0.0).sum(dim=1) / num_real

        loss = None
        if labels is not None:
            # CODEPATH: fine-tuning on AudioSet, several labels per clip
            if self.config.problem_type == "multi_label_classification":
                labels = self._as_multi_hot(labels, logits)
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)

        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )

    def _as_multi_hot(self, labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """The labels as a row of zeros and ones per clip, in the shape and dtype of the logits."""
        if labels.ndim == 1 and not labels.is_floating_point():
            labels = nn.functional.one_hot(labels.long(), num_classes=self.config.num_labels)
        if labels.shape != logits.shape:
            raise ValueError(
                f"`labels` must be of shape {tuple(logits.shape)} (or hold one integer index per clip) for "
                f"`multi_label_classification`, got {tuple(labels.shape)}."
            )
        return labels.to(logits)


BeatsModel.register_for_auto_class("AutoModel")
BeatsForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")
# Code that arrives with a checkpoint has a package; it must not answer for other checkpoints of this model type.
if not __package__:
    AutoModel.register(BeatsConfig, BeatsModel, exist_ok=True)
    AutoModelForAudioClassification.register(BeatsConfig, BeatsForAudioClassification, exist_ok=True)


__all__ = ["BeatsForAudioClassification", "BeatsModel", "BeatsPreTrainedModel"]
