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
Which base weights an adapter belongs to: its file holds a few values of each base parameter, by name, in its metadata.
Loading an adapter onto another base of the same size would give nonsense without any error.
"""

import json

import torch
from safetensors import safe_open
from torch import nn
from transformers.utils import cached_file, logging


logger = logging.get_logger(__name__)

# Trained as a whole, next to the LoRA matrices of the LLM.
TRAINED_MODULES = ("connector", "speech_layer_norm", "beats_layer_norm")
ADAPTER_WEIGHTS = "adapter_model.safetensors"
BASE_WEIGHTS = "base_weights"  # in the metadata of that file: JSON, {name of a base parameter: a few of its values}
PEFT_PREFIX = "base_model.model."  # of every name in that file
NUM_SAMPLES = 16


def find_base_name(model: nn.Module, name: str) -> str | None:
    """What the tensor `name` of `model.state_dict()` is called without adapters, or `None` if it is an adapter's."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    module, parts = model, []
    for part in name.split("."):
        if not isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
            parts.append(part)
        elif part not in ("base_layer", "original_module", "token_adapter"):  # where PEFT puts what it wraps
            return None
        module = getattr(module, part, None)
    return ".".join(parts)


def find_base_weights(model: nn.Module, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What an adapter is trained on: all but the trained modules and the LLM's vocabulary, which may grow."""
    base, found = model.base_model, {}
    prefix = "" if base is model else f"{model.base_model_prefix}."
    embeddings = base.get_input_embeddings()
    vocabulary = next(f"{name}." for name, module in base.named_modules() if module is embeddings)
    for name, tensor in tensors.items():
        name = find_base_name(model, name)
        if name is not None and name.startswith(prefix):
            name = name.removeprefix(prefix)
            if name.split(".")[0] not in TRAINED_MODULES and not name.startswith(vocabulary):
                found[name] = tensor
    return found


@torch.no_grad()
def sample_weights(tensor: torch.Tensor) -> torch.Tensor | None:
    """`NUM_SAMPLES` evenly spaced values, float32, or `None` of what is quantized, sharded, offloaded or not finite."""
    is_readable = tensor.is_floating_point() and tensor.itemsize > 1 and tensor.numel() > 0 and not tensor.is_meta
    if not is_readable or hasattr(tensor, "full_tensor"):
        return None
    index = torch.arange(NUM_SAMPLES, device=tensor.device) * (tensor.numel() - 1) // (NUM_SAMPLES - 1)
    values = tensor.flatten()[index].float().cpu()
    return values if values.isfinite().all() else None


def record_base_weights(model: nn.Module, state_dict: dict[str, torch.Tensor]) -> dict[str, list[float]]:
    """A few values of each base parameter of `model` that can be read, by name, in the digits that matter."""
    samples = {name: sample_weights(tensor) for name, tensor in find_base_weights(model, state_dict).items()}
    return {
        name: [float(f"{value:.5g}") for value in values.tolist()]
        for name, values in samples.items()
        if values is not None
    }


def find_other_weights(recorded: dict[str, list[float]], tensors: dict[str, torch.Tensor]) -> list[str]:
    """
    Names of the `tensors` that are other weights than those `recorded`, and not the same ones rounded: to 16 bits, which
    changes a value by less than 1 %, or to 8 bits, in which no row has more than 256 different values.
    """
    other, rounded = [], {}
    for name, tensor in tensors.items():
        found = sample_weights(tensor) if name in recorded else None
        if found is None:
            continue
        expected = torch.tensor(recorded[name])
        size, error = expected.norm().item(), (found - expected).norm().item()
        row = tensor.reshape(-1)[: tensor.shape[-1] if tensor.ndim else 1]
        if row.unique().numel() > 256:
            if error > 2**-6 * size + 1e-5:
                other.append(name)
        elif error > 2**-3 * size + 2**-8:
            other.append(name)
        elif size > 0:
            rounded.setdefault(name.split(".")[0], {})[name] = error / size
    # fp8, and int8 with a scale for each row, are off by up to 6 % here and there, but by 2.5 % on the whole
    for errors in rounded.values():
        if torch.tensor(list(errors.values())).median() > 2**-5:
            other += [name for name, error in errors.items() if error > 2**-5]
    return other


def check_base_weights(model: nn.Module, recorded: dict[str, list[float]], base_check: str = "error") -> None:
    """Raises a `ValueError`, or with `"warn"` logs, that an adapter with the values `recorded` is not for this base."""
    if base_check not in ("error", "warn", "off"):
        raise ValueError(f"`base_check` must be 'error', 'warn' or 'off', got {base_check!r}.")
    other = find_other_weights(recorded, find_base_weights(model, model.state_dict())) if base_check != "off" else []
    if other:
        parts = ", ".join(sorted({name.split(".")[0] for name in other}))
        message = (
            f"The adapter was trained on other base weights: {len(other)} of {len(recorded)} parameters differ, in "
            f"{parts} (first {other[0]}). Load it on the base model that it belongs to."
        )
        if base_check == "error":
            raise ValueError(message + " To load it here nevertheless, set `base_check` to 'warn' or 'off'.")
        logger.warning(message)


def read_adapter(folder, **hub_arguments) -> tuple[dict[str, torch.Tensor], dict[str, list[float]] | torch.Tensor]:
    """Tensors of a saved adapter, and what it says of its base weights: `{name: values}`, or rows in an old file."""
    from peft.utils import load_peft_weights

    file = cached_file(folder, ADAPTER_WEIGHTS, _raise_exceptions_for_missing_entries=False, **hub_arguments)
    if file is None:  # a pickle
        tensors, metadata = load_peft_weights(str(folder), "cpu", **hub_arguments), {}
    else:
        with safe_open(file, framework="pt") as opened:
            tensors, metadata = {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata() or {}
    recorded = json.loads(metadata.get(BASE_WEIGHTS, "{}"))
    # before it was metadata, the record was a tensor with a row for each base parameter, in the order of the model
    for name in [name for name in tensors if name.endswith("base_fingerprint")]:
        recorded = tensors.pop(name).float()
    return tensors, recorded


def load_adapter_weights(model, folder, adapter_name=None, base_check: str = "error", tensors=None, **hub_arguments):
    """
    Puts saved weights into an adapter that `model` has, by default the active one.

    Raises a `ValueError` if some are missing or left over, if sizes differ, and as `base_check` says if they belong to
    other base weights.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    adapter_name = adapter_name or model._find_active_adapter()
    tensors, recorded = (tensors, {}) if tensors is not None else read_adapter(folder, **hub_arguments)
    expected = get_peft_model_state_dict(model, adapter_name=adapter_name, save_embedding_layers=False)
    # a model without the head lacks a prefix that one with it has
    prefix, tensors = f"{model.base_model_prefix}.", {k.removeprefix(PEFT_PREFIX): v for k, v in tensors.items()}
    tensors = {
        next((new for new in (name, name.removeprefix(prefix), prefix + name) if new in expected), name): tensor
        for name, tensor in tensors.items()
    }
    # PEFT saves an LLM's embeddings along with LoRA on them
    different = set(expected) - set(tensors) | set(tensors) - set(expected) - set(model.state_dict())
    if different:
        names = ", ".join(sorted(different)[:3])
        raise ValueError(
            f"The adapter {folder} does not fit this model, which differs in {names} ({len(different)} in all)."
        )
    try:
        set_peft_model_state_dict(model, tensors, adapter_name=adapter_name)
    except RuntimeError as error:
        raise ValueError(
            f"The adapter {folder} does not fit this model: its tensors have other sizes. {error}"
        ) from error
    if isinstance(recorded, torch.Tensor):
        names = list(find_base_weights(model, dict(model.named_parameters())))
        rows = recorded.tolist() if len(recorded) == len(names) else []
        recorded = {name: row for name, row in zip(names, rows) if any(row) and torch.tensor(row).isfinite().all()}
    if not recorded:
        logger.info(f"The adapter {folder} does not say which base weights it belongs to: they are not checked.")
    check_base_weights(model, recorded, base_check)
