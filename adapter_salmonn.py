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

"""The trained part of a SALMONN as a PEFT adapter: what it holds, how strongly it acts, and how it is merged."""

from collections.abc import Iterable
from contextlib import contextmanager, nullcontext
from dataclasses import fields

import torch
from torch import nn
from transformers.utils.loading_report import LoadStateDictInfo


try:
    from .base_weights_salmonn import TRAINED_MODULES, find_base_name, load_adapter_weights
    from .sharing_salmonn import HUB_ARGUMENTS, SalmonnSharingMixin
except ImportError:
    from base_weights_salmonn import TRAINED_MODULES, find_base_name, load_adapter_weights
    from sharing_salmonn import HUB_ARGUMENTS, SalmonnSharingMixin


# What is to be left out when the LLM is quantized.
UNQUANTIZED_MODULES = ("model.speech_encoder", "model.beats", "model.connector", "lm_head")


def check_trained_module(name: str, module: nn.Module, is_loaded: bool):
    """Raises a `ValueError` that says what to do if an adapter cannot have a `module` of its own."""
    if not all(parameter.is_floating_point() for parameter in module.parameters()):
        raise ValueError(
            f"{name} is quantized, but an adapter trains it as a whole. Load the model with "
            f"`BitsAndBytesConfig(..., llm_int8_skip_modules={list(UNQUANTIZED_MODULES)})`, or the like."
        )
    if not is_loaded and any(parameter.is_meta for parameter in module.parameters()):
        raise ValueError(
            f"{name} is offloaded, so that a new adapter cannot begin with its weights. Name devices of connector and norms "
            "in `device_map`."
        )


@contextmanager
def without_offloading(modules: Iterable[nn.Module]):
    """Context in which accelerate's hooks are off `modules`: a copy with them would read the weights of the original."""
    names = ("_hf_hook", "_old_forward", "forward")
    kept = [(m, {n: m.__dict__.pop(n) for n in names if n in m.__dict__}) for part in modules for m in part.modules()]
    try:
        yield
    finally:
        for module, attributes in kept:
            module.__dict__.update(attributes)


class AdapterConfigs(dict):
    """`peft_config` of a model that has adapters: `get_peft_model`, which alone calls `update`, is refused."""

    def update(self, *args, **kwargs):
        raise ValueError(
            f"The model has the adapter {', '.join(map(repr, self))}: `get_peft_model` and `PeftModel` would stack another "
            "on its layers. Go on with `model.train_adapter()`; or remove it with `model.delete_adapter(name)` or "
            "`model.merge_and_unload()` first; or add a second one with `model.add_adapter(config, name)`."
        )


class SalmonnAdapterMixin(SalmonnSharingMixin):
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

    def _inject_adapter(self, config, adapter_name: str, is_loaded: bool = False):
        from peft import inject_adapter_in_model

        configs = getattr(self, "peft_config", {})
        if adapter_name in configs:
            raise ValueError(
                f"Adapter with name {adapter_name} already exists. Go on with `train_adapter`, remove it with "
                "`delete_adapter` or `merge_and_unload`, or give the new one another name."
            )
        parts = tuple(getattr(config, "modules_to_save", None) or ())
        whole = {
            name: module
            for name, module in self.named_modules()
            if name in parts or name.endswith(tuple(f".{part}" for part in parts))
        }
        for name, module in whole.items():
            check_trained_module(name, module, is_loaded)
        try:
            with without_offloading(whole.values()):
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
        self._inject_adapter(config, adapter_name, is_loaded=True)
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
        """PEFT puts what it adds where the weights of the base are; from where these are offloaded it would not come back."""
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
