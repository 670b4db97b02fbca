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
The trained part of a SALMONN as a PEFT adapter: what it holds, which base weights it belongs to, how strongly it acts,
and how it is saved beside its base, shared on the Hub, or merged.
"""

import copy
import json
import os
import re
import tempfile
from contextlib import nullcontext
from dataclasses import fields

import torch
from huggingface_hub import HfApi, ModelCard, ModelCardData
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers.utils import cached_file, find_adapter_config_file, logging
from transformers.utils.loading_report import LoadStateDictInfo


logger = logging.get_logger(__name__)

# Trained as a whole, next to the LoRA matrices of the LLM.
TRAINED_MODULES = ("connector", "speech_layer_norm", "beats_layer_norm")
ADAPTER_WEIGHTS = "adapter_model.safetensors"
BASE_WEIGHTS = "base_weights"  # in the metadata of that file: JSON, {name of a base parameter: a few of its values}
PEFT_PREFIX = "base_model.model."  # of every name in that file
NUM_SAMPLES = 16
# What is to be left out when the LLM is quantized.
UNQUANTIZED_MODULES = ("model.speech_encoder", "model.beats", "model.connector", "lm_head")
UPLOAD_ARGUMENTS = ("commit_message", "commit_description", "create_pr", "private", "revision")
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


CARD = """
# {title}

A [SALMONN](https://arxiv.org/abs/2310.13289): a large language model that hears speech, sounds and music.
{content} The weights carry the licences of the models that they are made of: name yours above before you publish.

```python
import numpy as np
from transformers import AutoModelForMultimodalLM, AutoProcessor

{loading}
clip = np.zeros(16000, dtype=np.float32)  # a second of silence at 16 kHz, or the path of a recording
question = [{{"type": "audio", "audio": clip}}, {{"type": "text", "text": "What do you hear?"}}]
inputs = processor.apply_chat_template(
    [{{"role": "user", "content": question}}],
    add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
)
output = model.generate(**inputs, max_new_tokens=50)
print(processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0])
```
"""
LOADING = """\
processor = AutoProcessor.from_pretrained({model!r}, trust_remote_code=True)
model = AutoModelForMultimodalLM.from_pretrained({model!r}, trust_remote_code=True)"""


# ----------------------------------------------------------------------------------------------------------------------
# Which base weights an adapter belongs to


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


# ----------------------------------------------------------------------------------------------------------------------
# Models with adapters


def is_hub_id(name: str | None) -> bool:
    return bool(name) and re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not os.path.exists(name)


def check_trained_module(name: str, module: nn.Module):
    """Raises a `ValueError` that says what to do if an adapter cannot have a `module` of its own."""
    if not all(parameter.is_floating_point() for parameter in module.parameters()):
        raise ValueError(
            f"{name} is quantized, but an adapter trains it as a whole. Load the model with "
            f"`BitsAndBytesConfig(..., llm_int8_skip_modules={list(UNQUANTIZED_MODULES)})`, or the like."
        )
    if any(parameter.is_meta for parameter in module.parameters()):
        raise ValueError(
            f"{name} is offloaded, where an adapter's own would never be used. Name devices of connector and norms in "
            "`device_map`, or merge the adapter on a larger machine with `merge_and_unload` and load what that saves."
        )


class AdapterConfigs(dict):
    """`peft_config` of a model that has adapters: `get_peft_model`, which alone calls `update`, is refused."""

    def update(self, *args, **kwargs):
        raise ValueError(
            f"The model has the adapter {', '.join(map(repr, self))}: `get_peft_model` and `PeftModel` would stack another "
            "on its layers. Go on with `model.train_adapter()`; or remove it with `model.delete_adapter(name)` or "
            "`model.merge_and_unload()` first; or add a second one with `model.add_adapter(config, name)`."
        )


class SalmonnAdapterMixin:
    """For SALMONN models with and without a head: adapters through PEFT. See `PeftAdapterMixin`."""

    @property
    def peft_config(self) -> dict:
        if "_adapter_configs" not in self.__dict__:
            raise AttributeError("The model has no adapter.")
        return self._adapter_configs

    @peft_config.setter
    def peft_config(self, configs: dict):
        self._adapter_configs = AdapterConfigs(configs)

    @peft_config.deleter
    def peft_config(self):
        self.__dict__.pop("_adapter_configs", None)

    def lora_config(
        self,
        r: int = 8,
        lora_alpha: float = 32,
        lora_dropout: float = 0.1,
        target_modules: tuple[str, ...] = ("q_proj", "v_proj"),
        **kwargs,
    ):
        """
        The `LoraConfig` of the papers, for `add_adapter` or `peft.get_peft_model`: LoRA on the LLM only (the speech
        encoder has modules of the same names), and the connector and the norms before it trained as a whole. The
        released models have a scaling `lora_alpha / r` of 4 (2310.13289, section 4.1).
        """
        from peft import LoraConfig

        trained = [name for name in TRAINED_MODULES if getattr(self.base_model, name) is not None]
        return LoraConfig(
            r=r,
            lora_alpha=lora_alpha,
            lora_dropout=lora_dropout,
            target_modules=rf"(.*\.)?language_model\..*\.({'|'.join(target_modules)})",
            modules_to_save=kwargs.pop("modules_to_save", trained),
            **kwargs,
        )

    def add_adapter(self, adapter_config, adapter_name: str | None = None):
        """Adds a new adapter and makes it the active one, trainable, in float32 whatever the base model's dtype."""
        from peft import PeftConfig

        if not isinstance(adapter_config, PeftConfig):
            raise TypeError(f"`adapter_config` must be a `PeftConfig`, got {type(adapter_config).__name__}.")
        adapter_config.base_model_name_or_path = self.name_or_path or None
        self._inject_adapter(adapter_config, adapter_name or "default")
        self.train_adapter(adapter_name or "default")

    def _inject_adapter(self, config, adapter_name: str):
        from peft import inject_adapter_in_model

        configs = getattr(self, "peft_config", {})
        if adapter_name in configs:
            raise ValueError(
                f"Adapter with name {adapter_name} already exists. Go on with `train_adapter`, remove it with "
                "`delete_adapter` or `merge_and_unload`, or give the new one another name."
            )
        for name, module in self.named_modules():
            if any(
                name == part or name.endswith(f".{part}") for part in getattr(config, "modules_to_save", None) or ()
            ):
                check_trained_module(name, module)
        try:
            inject_adapter_in_model(config, self, adapter_name)
        except Exception:
            configs.pop(adapter_name, None)
            if not configs:
                self._unload_adapters()
            raise
        self._hf_peft_config_loaded = True

    def load_adapter(
        self,
        peft_model_id=None,
        adapter_name: str | None = None,
        peft_config=None,
        adapter_state_dict: dict[str, torch.Tensor] | None = None,
        is_trainable: bool = False,
        base_check: str = "error",
        adapter_kwargs: dict | None = None,
        load_config=None,
        **kwargs,
    ) -> LoadStateDictInfo:
        """
        Loads an adapter and makes it the active one.

        Args:
            peft_model_id (`str` or `os.PathLike`, *optional*):
                Folder or Hub id of a saved adapter.
            adapter_name (`str`, *optional*, defaults to `"default"`):
                Name of the adapter in this model.
            peft_config (`PeftConfig`, *optional*), adapter_state_dict (`dict[str, torch.Tensor]`, *optional*):
                An adapter that was read already, instead of `peft_model_id`.
            is_trainable (`bool`, *optional*, defaults to `False`):
                Whether to train it further, in float32. Otherwise it is frozen, and the model put into eval mode.
            base_check (`str`, *optional*, defaults to `"error"`):
                What to do if the adapter was trained on other base weights: `"error"`, `"warn"` or `"off"`. A base that
                was rounded to 16 or 8 bits is the same base. Files of other tools, which do not say, are not checked.
            adapter_kwargs (`dict`, *optional*), kwargs:
                `revision`, `subfolder`, `token` and the like, for the Hub.

        Raises a `ValueError` if the adapter does not fit the model, or not its weights, and leaves the model as it was.
        """
        from peft import PeftConfig

        hub = {**getattr(load_config, "download_kwargs", {}), **(adapter_kwargs or {}), **kwargs}
        base_check = hub.pop("base_check", base_check)
        hub = {key: value for key, value in hub.items() if value is not None and key != "tqdm_class"}
        if unknown := sorted(set(hub) - set(HUB_ARGUMENTS)):
            raise TypeError(f"`load_adapter` got arguments that it does not know: {', '.join(unknown)}.")
        if peft_model_id is None and (peft_config is None or adapter_state_dict is None):
            raise ValueError("Either `peft_model_id` or `peft_config` and `adapter_state_dict` must be given.")
        adapter_name, config = adapter_name or "default", peft_config
        if config is None:
            config = PeftConfig.from_pretrained(str(peft_model_id), **hub)
        config.inference_mode = not is_trainable
        previous = self.active_adapters() if self._hf_peft_config_loaded else []
        self._inject_adapter(config, adapter_name)
        try:
            self.set_adapter(adapter_name)
            if is_trainable:
                self.train_adapter(adapter_name)
            self._bring_back_offloaded(config, adapter_name)
            load_adapter_weights(self, peft_model_id, adapter_name, base_check, tensors=adapter_state_dict, **hub)
        except Exception:
            self.delete_adapter(adapter_name)
            if previous:
                self.set_adapter(previous)
            raise
        if not is_trainable:
            self.eval()
        # nothing is missing, left over or of another size: that would have been an error
        return LoadStateDictInfo(**{field.name: set() for field in fields(LoadStateDictInfo)})

    def _bring_back_offloaded(self, config, adapter_name: str):
        """PEFT puts LoRA where the weights are that it adapts; from where these are offloaded it would not come back."""
        devices = [device for device in getattr(self, "hf_device_map", {}).values() if device not in ("cpu", "disk")]
        for name, parameter in list(self.named_parameters()):
            if not parameter.is_meta or adapter_name not in name.split(".") or find_base_name(self, name) is not None:
                continue
            if getattr(config, "use_dora", False):
                raise ValueError("DoRA reads the weights that it adapts, of which some are offloaded: merge it first.")
            weight = torch.empty_like(parameter, device=devices[0] if devices else "cpu")
            owner, _, last = name.rpartition(".")
            setattr(self.get_submodule(owner), last, nn.Parameter(weight, requires_grad=False))

    def train_adapter(self, adapter_name: str | None = None):
        """
        Makes one adapter, by default the active one, the active and only trainable part, in float32: steps of an
        optimizer are smaller than what 16 bits resolve. An adapter that was loaded is frozen before.
        """
        from peft.functional import set_requires_grad

        adapter_name = adapter_name or self._find_active_adapter()
        if adapter_name not in self.peft_config:
            raise ValueError(f"`adapter_name` must be one of {list(self.peft_config)}, got {adapter_name!r}.")
        self.peft_config[adapter_name].inference_mode = False
        self.requires_grad_(False)
        set_requires_grad(self, adapter_name)
        self.set_adapter(adapter_name)
        for parameter in self.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        return self

    def set_adapter(self, adapter_name: str | list[str]):
        """Makes an adapter, or several that have no whole modules, the active one. What was loaded stays frozen."""
        from peft.functional import set_adapter

        names = [adapter_name] if isinstance(adapter_name, str) else adapter_name
        configs = getattr(self, "peft_config", {})
        if unknown := [name for name in names if name not in configs]:
            raise ValueError(f"`adapter_name` must be of {list(configs)}, got {', '.join(unknown)}.")
        set_adapter(self, adapter_name, inference_mode=all(configs[name].inference_mode for name in names))

    def active_adapters(self) -> list[str]:
        """Names of the active adapters, which may be of any kind. See `PeftAdapterMixin`."""
        if not self._hf_peft_config_loaded:
            raise ValueError("The model has no adapter.")
        active = [name for module in self._adapter_modules() for name in module.active_adapters]
        return list(dict.fromkeys(active))

    def _find_active_adapter(self) -> str:
        active = self.active_adapters()
        if len(active) != 1:
            raise ValueError(f"One adapter must be active, got {active or 'none'}: choose with `set_adapter`.")
        return active[0]

    def _adapter_modules(self) -> list[nn.Module]:
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils.other import AuxiliaryTrainingWrapper

        return [module for module in self.modules() if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper))]

    def enable_adapters(self):
        """Undoes `disable_adapters`, for whole modules as for LoRA."""
        active = self.active_adapters()
        for module in self._adapter_modules():
            module.enable_adapters(enabled=True)
        self.set_adapter(active)

    def delete_adapter(self, adapter_names: list[str] | str):
        """Deletes adapters. With the last one the model is its base again."""
        names = [adapter_names] if isinstance(adapter_names, str) else adapter_names
        if self._hf_peft_config_loaded and set(names) == set(self.peft_config):
            self._unload_adapters()
        else:
            super().delete_adapter(names)
            if not self.active_adapters():
                self.set_adapter(next(iter(self.peft_config)))

    def merge_and_unload(self):
        """Merges LoRA into the LLM's weights, for deployment, and makes the trained modules the model's own."""
        if not self._hf_peft_config_loaded:
            raise ValueError("`merge_and_unload` needs a model with an adapter, got one without.")
        if any(parameter.is_meta for parameter in self.parameters()):
            raise ValueError(
                "`merge_and_unload` needs all weights in memory, got a model of which some are offloaded."
            )
        self._unload_adapters(merge=True)
        return self

    def _unload_adapters(self, merge: bool = False):
        """Puts modules of the model's own back in place of PEFT's, with or without what was trained."""
        adapter_modules = set(self._adapter_modules())
        for name, module in list(self.named_modules()):
            if module not in adapter_modules:
                continue
            adapter_modules -= set(module.modules())  # what it holds goes with it
            if hasattr(module, "unload_and_optionally_merge_module") and merge:
                own = module.unload_and_optionally_merge_module(merge=True, safe_merge=True, adapter_names=None)
            elif hasattr(module, "original_module"):
                own = module.original_module
            else:
                if merge:
                    module.merge(safe_merge=True)
                elif module.merged:
                    module.unmerge()
                own = module.get_base_layer()
            self.set_submodule(name, own)
        del self.peft_config
        self._hf_peft_config_loaded = False

    def _scale_lora(self, lora_scale: float | None):
        """Context in which LoRA acts `lora_scale` times as strongly."""
        if lora_scale is None:
            return nullcontext()
        if isinstance(lora_scale, bool) or not isinstance(lora_scale, (int, float)) or not 0 <= lora_scale < torch.inf:
            raise ValueError(f"`lora_scale` must be a number of at least 0, got {lora_scale!r}.")
        from peft.helpers import rescale_adapter_scale
        from peft.tuners.lora import LoraLayer

        layers = [module for module in self.modules() if isinstance(module, LoraLayer)]
        if not layers:
            raise ValueError(f"`lora_scale` needs a model with a LoRA adapter, got {lora_scale} for one without.")
        if any(layer.merged for layer in layers):
            raise ValueError(f"`lora_scale` needs LoRA that is not merged into the weights, got {lora_scale}.")
        return rescale_adapter_scale(self, lora_scale)

    # ------------------------------------------------------------------------------------------------------------------
    # Saving, loading, sharing

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, base_check: str = "error", **kwargs):
        """
        Loads a model, with the adapter that lies beside it, or an adapter's folder or Hub id with the base model that
        it names. `base_check` is that of `load_adapter`; all else is as in [`~PreTrainedModel.from_pretrained`].
        """
        name, adapter_kwargs = pretrained_model_name_or_path, dict(kwargs.pop("adapter_kwargs", None) or {})
        hub = {key: kwargs[key] for key in HUB_ARGUMENTS if kwargs.get(key) is not None}
        if name is not None and "_adapter_model_path" not in adapter_kwargs:
            file = find_adapter_config_file(str(name), **{**hub, **adapter_kwargs})
            if file is not None:
                # Transformers would look for the base model where the adapter was trained, even if it lies beside it
                if cached_file(name, "config.json", _raise_exceptions_for_missing_entries=False, **hub) is None:
                    with open(file, encoding="utf-8") as opened:
                        pretrained_model_name_or_path = json.load(opened).get("base_model_name_or_path")
                    if not pretrained_model_name_or_path:
                        raise ValueError(
                            f"The adapter {name} names no base model: load that one, then `load_adapter`."
                        )
                    adapter_kwargs = {"subfolder": kwargs.pop("subfolder", None), **adapter_kwargs}
                adapter_kwargs |= {"_adapter_model_path": str(name)}
        if "_adapter_model_path" in adapter_kwargs:
            adapter_kwargs["base_check"] = base_check
        return super().from_pretrained(
            pretrained_model_name_or_path, *model_args, adapter_kwargs=adapter_kwargs, **kwargs
        )

    def save_pretrained(
        self,
        save_directory,
        is_main_process: bool = True,
        state_dict: dict[str, torch.Tensor] | None = None,
        push_to_hub: bool = False,
        *args,
        adapter_only: bool = False,
        repo_id: str | None = None,
        **kwargs,
    ):
        """
        Saves the model, with a model card unless there is a README.md. One with an adapter is saved as two: the base
        weights and, beside them, the active adapter as an ordinary PEFT folder, which `from_pretrained` loads with them.

        Args:
            save_directory (`str` or `os.PathLike`):
                Folder to save to.
            push_to_hub (`bool`, *optional*, defaults to `False`):
                Upload what was saved.
            adapter_only (`bool`, *optional*, defaults to `False`):
                Save the active adapter only, to be loaded on its base model with `load_adapter`.
            repo_id (`str`, *optional*):
                Hub id of the saved model, by default the folder's name. Auto classes find a base model on the Hub by
                what the adapter beside it says, so name it if you upload the folder yourself.
            args, kwargs:
                Passed on to [`~PreTrainedModel.save_pretrained`], as all other arguments are.
        """
        has_adapter = self._hf_peft_config_loaded
        if adapter_only and not has_adapter:
            raise ValueError("`adapter_only=True` needs a model with an adapter, got one without.")
        if not has_adapter and self._adapter_modules():
            raise ValueError(
                "The model is in a `PeftModel`: save that one, or take the model out with `unload()` first."
            )
        if has_adapter and not adapter_only:
            if getattr(self, "hf_quantizer", None) is not None or any(p.is_meta for p in self.parameters()):
                raise ValueError(
                    "Of a quantized or offloaded model the adapter can be saved: use `adapter_only=True`."
                )
        if not has_adapter and os.path.exists(os.path.join(save_directory, "adapter_config.json")):
            raise ValueError(
                f"`save_directory` {save_directory} holds an adapter, which would be loaded with the model."
            )
        os.makedirs(save_directory, exist_ok=True)
        hub = {key: kwargs.pop(key) for key in UPLOAD_ARGUMENTS if key in kwargs}
        before = self._get_files_timestamps(save_directory)
        if push_to_hub and is_main_process:
            api = HfApi(token=kwargs.get("token"))
            name = repo_id or os.path.basename(os.path.abspath(save_directory))
            repo_id = api.create_repo(name, exist_ok=True, private=hub.pop("private", None)).repo_id

        if has_adapter:
            state_dict = state_dict or self.state_dict()
            if is_main_process:
                self._save_adapter(save_directory, state_dict, adapter_only, repo_id)
            own = {find_base_name(self, name): tensor for name, tensor in state_dict.items()}
            own.pop(None, None)
            state_dict = own
        if not adapter_only:
            self._hf_peft_config_loaded = False  # or else Transformers saves the adapter again, and nothing else
            try:
                super().save_pretrained(save_directory, is_main_process, state_dict, False, *args, **kwargs)
            finally:
                self._hf_peft_config_loaded = has_adapter
        if not is_main_process:
            return
        card = os.path.join(save_directory, "README.md")
        if not os.path.exists(card):
            self._make_card(adapter_only, repo_id).save(card)
        if push_to_hub:
            # a card that is on the Hub stays
            before["README.md"] = torch.inf if api.file_exists(repo_id, "README.md") else 0
            return self._upload_modified_files(save_directory, repo_id, before, token=kwargs.get("token"), **hub)

    def _save_adapter(
        self, save_directory, state_dict: dict[str, torch.Tensor], adapter_only: bool, repo_id: str | None
    ):
        """Writes the active adapter as PEFT does, and with it which base weights it belongs to."""
        from peft import get_peft_model_state_dict

        adapter_name = self._find_active_adapter()
        tensors = get_peft_model_state_dict(self, state_dict, adapter_name, save_embedding_layers=False)
        tensors = {f"{PEFT_PREFIX}{name}": tensor.contiguous() for name, tensor in tensors.items()}
        samples = {name: sample_weights(tensor) for name, tensor in find_base_weights(self, state_dict).items()}
        recorded = {
            name: [float(f"{value:.5g}") for value in values.tolist()]
            for name, values in samples.items()
            if values is not None
        }
        metadata = {"format": "pt", BASE_WEIGHTS: json.dumps(recorded)}
        path = os.path.join(save_directory, ADAPTER_WEIGHTS)
        save_file(tensors, path, metadata=metadata)
        with open(path, "r+b") as file:  # it writes metadata in any order, but equal adapters should be equal files
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size)) | {"__metadata__": metadata}
            file.seek(8)
            file.write(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size))
        config = copy.copy(self.peft_config[adapter_name])
        name = self.name_or_path or config.base_model_name_or_path
        if not adapter_only:  # the base is beside it; where that was loaded from means nothing elsewhere
            name = repo_id or (name if is_hub_id(name) else None)
        config.base_model_name_or_path = name or None
        config.save_pretrained(save_directory)

    def push_to_hub(self, repo_id: str, *, tags: list[str] | str | None = None, **kwargs):
        """Uploads the model to the Hub. `kwargs` are those of `save_pretrained`, such as `adapter_only` and `private`."""
        self.add_model_tags(tags or [])
        with tempfile.TemporaryDirectory() as folder:
            return self.save_pretrained(folder, push_to_hub=True, repo_id=repo_id, **kwargs)

    def _make_card(self, adapter_only: bool, repo_id: str | None) -> ModelCard:
        """The model card of what is saved, with a snippet that runs in its folder, or anywhere if it is on the Hub."""
        own, parts = repo_id or ".", [self.config.speech_config, self.config.text_config]
        names = [self.name_or_path] if adapter_only else [part.name_or_path for part in parts]
        data = ModelCardData(
            base_model=[name for name in names if is_hub_id(name)] or None,
            library_name="peft" if adapter_only else "transformers",
            license="other",
            license_name="of-its-parts",
            pipeline_tag="audio-text-to-text",
            tags=["salmonn", "audio", "speech", "music", *(self.model_tags or [])],
        )
        base = self.name_or_path if adapter_only else own
        loading = LOADING.format(model=base or "path of the base model")
        content = "This is the whole model."
        if adapter_only:
            loading += f"\nmodel.load_adapter({own!r})"
            content = "This is an adapter: connector, norms and LoRA, to be loaded on its base model."
        text = CARD.format(title=own if repo_id else "SALMONN", content=content, loading=loading)
        return ModelCard(f"---\n{data.to_yaml()}\n---\n{text}")
