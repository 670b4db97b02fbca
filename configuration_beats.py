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

"""Configuration of BEATs ("BEATs: Audio Pre-Training with Acoustic Tokenizers", arXiv 2212.09058)."""

import difflib
import math
import re
from functools import wraps
from typing import Literal

import torch
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig
from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES
from transformers.utils import auto_docstring, logging


logger = logging.get_logger(__name__)


# Of the log energies on AudioSet, which filter banks are normalised by.
FBANK_MEAN, FBANK_STD = 15.41663, 6.55582


# What is beyond is a typing error or an attack: memory would be asked for before anybody looks at a weight.
MAX_LAYERS = 1000
MAX_WIDTH = 2**17


def plain_errors(cls):
    """
    Decorates a `@strict` configuration: a value of another type is a `TypeError` that names its field, as everywhere, and
    a name that is nearly that of a field a `ValueError`. Other names are kept, as Transformers does, with a warning.
    """
    strict_init = cls.__init__

    @wraps(strict_init)
    def __init__(self, *args, **kwargs):
        known = {name for base in cls.__mro__ for name in getattr(base, "__annotations__", ())}
        for name in kwargs.keys() - known:
            near = difflib.get_close_matches(name, cls.__annotations__, n=1, cutoff=0.8)
            if near:
                raise ValueError(f"`{name}` is no field of {cls.__name__}: did you mean `{near[0]}`?")
            if not (name.startswith("_") or name in _OF_TRANSFORMERS or hasattr(cls, name)):
                logger.warning_once(f"`{name}` is no field of {cls.__name__}: it has no effect.")
        for name in ("dtype", "torch_dtype"):
            dtype = kwargs.get(name)
            if isinstance(dtype, str) and not isinstance(getattr(torch, dtype, None), torch.dtype):
                raise ValueError(f"`{name}` of {cls.__name__} must be the name of a dtype of torch, got {dtype!r}.")
        try:
            strict_init(self, *args, **kwargs)
        except StrictDataclassError as error:
            # "Validation error for field 'x':\n TypeError: Field 'x' expected int, got str (value: 'a')"
            name = re.search(r"field '(\w+)'", str(error))
            reason = str(error).strip().splitlines()[-1].strip().removeprefix("TypeError: ")
            raise TypeError(f"`{name[1] if name else cls.__name__}` of {cls.__name__}: {reason[:500]}") from error

    cls.__init__ = __init__
    return cls


# Names that come along in files and calls though they are no fields.
_OF_TRANSFORMERS = {
    "auto_map",
    "quantization_config",
    "torch_dtype",
    "attn_implementation",
    "use_cache",
    "id2label",
    "label2id",
}


def check_share(name: str, value) -> None:
    """Raises `ValueError` unless `value` is from 0 to 1, as the share of what is dropped."""
    if not 0 <= value <= 1:
        raise ValueError(f"`{name}` must be from 0 to 1, got {value}.")


@auto_docstring(
    custom_intro="""
    This is the configuration class to store the configuration of a [`BeatsModel`] or a
    [`BeatsForAudioClassification`]. The defaults are those of the self-supervised BEATs_iter3+ (AS2M) encoder of
    [BEATs: Audio Pre-Training with Acoustic Tokenizers](https://huggingface.co/papers/2212.09058).
    """
)
@plain_errors
@strict
class BeatsConfig(PreTrainedConfig):
    r"""
    feat_proj_dropout (`float`, *optional*, defaults to 0.1):
        The dropout probability of the projected patches, before the positional convolution.
    patch_embed_dim (`int`, *optional*, defaults to 512):
        Width of a patch embedding. Where it equals `hidden_size` the patches are not projected, as in the released
        code.
    conv_bias (`bool`, *optional*, defaults to `False`):
        Whether the patch convolution has a bias.
    num_conv_pos_embeddings (`int`, *optional*, defaults to 128):
        Kernel size of the convolution over the tokens that encodes their absolute position.
    num_conv_pos_embedding_groups (`int`, *optional*, defaults to 16):
        Number of groups of that convolution.
    num_buckets (`int`, *optional*, defaults to 320):
        Number of buckets of the relative position bias, half of them for each direction.
    max_bucket_distance (`int`, *optional*, defaults to 800):
        Distance in tokens from which on all relative positions share the last bucket.
    deep_norm (`bool`, *optional*, defaults to `True`):
        Whether residuals are scaled by `(2 * num_hidden_layers) ** 0.25` before each layer norm (DeepNorm, which every
        released BEATs uses) or left as they are.
    fbank_mean (`float`, *optional*, defaults to 15.41663):
        Mean of the filter banks' log energies, which feature extractors subtract.
    fbank_std (`float`, *optional*, defaults to 6.55582):
        Standard deviation of the filter banks' log energies; feature extractors divide by twice this value.
    problem_type (`str`, *optional*, defaults to `"multi_label_classification"`):
        One of `"multi_label_classification"` (several sound events in one clip), `"single_label_classification"` and
        `"regression"`. `None` infers it from the labels.

    Example:

    ```python
    >>> from configuration_beats import BeatsConfig
    >>> from modeling_beats import BeatsModel

    >>> configuration = BeatsConfig()
    >>> model = BeatsModel(configuration)  # random weights
    >>> configuration = model.config
    ```"""

    model_type = "beats"

    num_mel_bins: int = 128
    patch_size: int = 16
    patch_embed_dim: int = 512
    conv_bias: bool = False
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout: float | int = 0.1
    attention_dropout: float | int = 0.1
    activation_dropout: float | int = 0.0
    feat_proj_dropout: float | int = 0.1
    classifier_dropout: float | int = 0.0
    layerdrop: float | int = 0.05
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    num_buckets: int = 320
    max_bucket_distance: int = 800
    deep_norm: bool = True
    fbank_mean: float | int = FBANK_MEAN
    fbank_std: float | int = FBANK_STD
    problem_type: Literal["regression", "single_label_classification", "multi_label_classification"] | None = (
        "multi_label_classification"
    )

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.validate_architecture()  # `@strict` does so too, but raises an error of its own kind

    @property
    def num_patch_bands(self) -> int:
        """Number of patches in one column of the patch grid, that is, of tokens for `patch_size` frames."""
        return self.num_mel_bins // self.patch_size

    def validate_architecture(self):
        """Check the sizes against each other. Raises `ValueError` with both values."""
        sizes = ("num_mel_bins", "patch_size", "patch_embed_dim", "hidden_size", "num_attention_heads")
        for name in (*sizes, "intermediate_size", "num_hidden_layers", "num_conv_pos_embeddings", "num_buckets"):
            most = MAX_LAYERS if name == "num_hidden_layers" else MAX_WIDTH
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(
                    f"`{name}` must be at least 1 and at most {most} (a constant of configuration_beats), got "
                    f"{getattr(self, name)}."
                )
        for name in ("hidden", "attention", "activation", "feat_proj", "classifier"):
            check_share(f"{name}_dropout", getattr(self, f"{name}_dropout"))
        if self.hidden_act not in ACT2FN:
            raise ValueError(f"`hidden_act` must be one of {', '.join(sorted(ACT2FN))}, got {self.hidden_act!r}.")
        check_share("layerdrop", self.layerdrop)
        for name in ("layer_norm_eps", "initializer_range"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"`{name}` must be a finite number of at least 0, got {getattr(self, name)}.")
        if not (math.isfinite(self.fbank_mean) and math.isfinite(self.fbank_std) and self.fbank_std > 0):
            raise ValueError(
                f"`fbank_mean` and `fbank_std` must be finite, the latter above 0, got {self.fbank_mean} and {self.fbank_std}."
            )
        if self.num_mel_bins % self.patch_size != 0:
            raise ValueError(
                f"`num_mel_bins` ({self.num_mel_bins}) must be a multiple of `patch_size` ({self.patch_size})."
            )
        if self.hidden_size % self.num_attention_heads != 0:
            raise ValueError(
                f"`hidden_size` ({self.hidden_size}) must be a multiple of `num_attention_heads` "
                f"({self.num_attention_heads})."
            )
        if self.num_conv_pos_embeddings < 1 or self.num_conv_pos_embedding_groups < 1:
            raise ValueError(
                f"`num_conv_pos_embeddings` ({self.num_conv_pos_embeddings}) and `num_conv_pos_embedding_groups` "
                f"({self.num_conv_pos_embedding_groups}) must be at least 1."
            )
        if self.hidden_size % self.num_conv_pos_embedding_groups != 0:
            raise ValueError(
                f"`hidden_size` ({self.hidden_size}) must be a multiple of `num_conv_pos_embedding_groups` "
                f"({self.num_conv_pos_embedding_groups})."
            )
        if self.num_buckets < 4 or self.num_buckets % 2 != 0:
            raise ValueError(
                f"`num_buckets` must be even and at least 4, one half for each direction, got {self.num_buckets}."
            )
        if self.max_bucket_distance <= self.num_buckets // 4:
            raise ValueError(
                f"`max_bucket_distance` ({self.max_bucket_distance}) must exceed the distances that have a bucket of "
                f"their own, `num_buckets // 4` ({self.num_buckets // 4})."
            )


# The audio classification pipeline accepts the class names in this table only, and registering with the auto class
# does not add to it. It is filled here because this file is the first one that loads, as a module and as remote code.
MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES.setdefault("beats", "BeatsForAudioClassification")

BeatsConfig.register_for_auto_class()
# Code that arrives with a checkpoint has a package; it must not answer for other checkpoints of this model type.
if not __package__:
    AutoConfig.register("beats", BeatsConfig, exist_ok=True)


__all__ = ["BeatsConfig"]
