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
The trained part of a SALMONN as a PEFT adapter: what it holds, which base model it belongs to, how strongly it acts,
and how it is saved beside that base model or merged into it.
"""

import os
from contextlib import nullcontext

import torch
from safetensors.torch import save_file
from torch import nn


# Trained as a whole, next to the LoRA matrices of the LLM.
TRAINED_MODULES = ("connector", "speech_layer_norm", "beats_layer_norm")
FINGERPRINT_SIZE = 16  # values kept of each parameter of the base model


def find_different_parameters(recorded: torch.Tensor, found: torch.Tensor) -> torch.BoolTensor:
    """Which rows `(num_parameters,)` of two fingerprints are of other weights. What is not finite is not compared."""
    # a rounding to bfloat16 on either side changes a value by less than 1 %
    differs = (recorded - found).abs() > 2**-6 * recorded.abs() + 1e-6
    return (differs & recorded.isfinite() & found.isfinite()).any(-1)


class FingerprintedModule(nn.Module):
    """
    A trained module that remembers its base model: a fingerprint of it is a buffer, which every way of saving an
    adapter saves along with the weights.
    """

    def __init__(self, num_base_parameters: int):
        super().__init__()
        self.base_fingerprint = nn.Buffer(torch.zeros(num_base_parameters, FINGERPRINT_SIZE))
        self.fingerprint_was_loaded = False

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self.fingerprint_was_loaded = f"{prefix}base_fingerprint" in state_dict


class BaseFingerprintMixin:
    """For the base model: writes its fingerprint into the trained modules on saving, and compares it on loading."""

    def _register_fingerprint_hooks(self):
        self.register_state_dict_pre_hook(BaseFingerprintMixin._stamp_fingerprint)
        self.register_load_state_dict_post_hook(BaseFingerprintMixin._check_loaded_fingerprints)

    def _base_parameters(self) -> dict[str, nn.Parameter]:
        """What an adapter is trained on, by name: everything but the trained modules and the LLM's vocabulary."""
        vocabulary = self.get_input_embeddings().weight  # grows when tokens are added
        return {
            name.replace(".base_layer.", "."): parameter  # PEFT moves what it adapts one level down
            for name, parameter in self.named_parameters()
            if name.split(".")[0] not in TRAINED_MODULES and "lora_" not in name and parameter is not vocabulary
        }

    def _fingerprinted_modules(self) -> list[FingerprintedModule]:
        """The connector; with adapters, the base model's and each adapter's own."""
        return [module for module in self.modules() if isinstance(module, FingerprintedModule)]

    @torch.no_grad()
    def compute_base_fingerprint(self) -> torch.Tensor:
        """
        A few evenly spaced values of each base parameter: `(num_parameters, FINGERPRINT_SIZE)` of float32, infinite
        where weights cannot be read (quantized, sharded or offloaded).
        """
        parameters = self._base_parameters().values()
        fingerprint = torch.full((len(parameters), FINGERPRINT_SIZE), torch.inf)
        for row, parameter in zip(fingerprint, parameters):
            readable = parameter.is_floating_point() and parameter.numel() > 0 and not parameter.is_meta
            if readable and not hasattr(parameter, "full_tensor"):
                index = torch.arange(FINGERPRINT_SIZE, device=parameter.device)
                row.copy_(parameter.flatten()[index * (parameter.numel() - 1) // (FINGERPRINT_SIZE - 1)])
        return fingerprint

    def _stamp_fingerprint(self, prefix: str, keep_vars: bool):
        modules = self._fingerprinted_modules()
        if not any(module.base_fingerprint.is_meta for module in modules):
            fingerprint = self.compute_base_fingerprint()
            for module in modules:
                # what cannot be read now, such as sharded weights, stays as it was stamped before
                known = fingerprint.to(module.base_fingerprint)
                module.base_fingerprint.copy_(torch.where(known.isfinite(), known, module.base_fingerprint))

    def _check_loaded_fingerprints(self, incompatible_keys):
        for module in self._fingerprinted_modules():
            if module.fingerprint_was_loaded:
                module.fingerprint_was_loaded = False
                self.check_base_fingerprint(module.base_fingerprint)

    def check_base_fingerprint(self, recorded: torch.Tensor):
        """
        Raises a `ValueError` if `recorded`, the fingerprint that came with an adapter, is that of other base weights.
        A base in another dtype is the same base.
        """
        recorded, found = recorded.float().cpu(), self.compute_base_fingerprint()
        if not recorded.any():
            return  # never saved, so never stamped
        recorded = recorded.masked_fill(~recorded.any(-1, keepdim=True), torch.inf)  # nor single parameters
        differs = find_different_parameters(recorded, found)
        if differs.any():
            names = [name for name, other in zip(self._base_parameters(), differs.tolist()) if other]
            parts = ", ".join(sorted({name.split(".")[0] for name in names}))
            raise ValueError(
                f"The adapter was trained on other base weights: {len(names)} of {len(differs)} parameters differ, in "
                f"{parts} (first {names[0]}). Load it on the base model that it belongs to."
            )


class SalmonnAdapterMixin:
    """For SALMONN models with and without a head: LoRA through PEFT."""

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
            modules_to_save=trained,
            **kwargs,
        )

    def add_adapter(self, adapter_config, adapter_name: str | None = None):
        """Adds a new adapter, in float32 whatever the base model's dtype, as PEFT does. See `PeftAdapterMixin`."""
        super().add_adapter(adapter_config, adapter_name)
        for name, parameter in self.named_parameters():
            if f".{adapter_name or 'default'}." in name and parameter.requires_grad:
                parameter.data = parameter.data.float()

    def load_adapter(self, peft_model_id=None, adapter_name=None, *args, **kwargs):
        """Loads an adapter and raises a `ValueError` if it belongs to other base weights. See `PeftAdapterMixin`."""
        base_conversions = getattr(self, "_weight_conversions", None)
        loading_info = super().load_adapter(peft_model_id, adapter_name, *args, **kwargs)
        self._weight_conversions = base_conversions  # not the adapter's, by which the base would be saved
        try:
            for module in self.base_model._fingerprinted_modules():
                self.base_model.check_base_fingerprint(module.base_fingerprint)
        except ValueError:
            adapter_name = adapter_name or "default"
            others = [name for name in self.peft_config if name != adapter_name]
            if others:
                self.set_adapter(others[0])
                self.delete_adapter(adapter_name)
            else:
                self._unload_adapters()
            raise
        return loading_info

    def save_pretrained(self, save_directory, *args, adapter_only: bool = False, **kwargs):
        """
        Saves the model. One with an adapter is saved as two: the base weights and, beside them, an ordinary PEFT
        folder (`adapter_config.json`, `adapter_model.safetensors`), which `from_pretrained` loads with them.

        Args:
            save_directory (`str` or `os.PathLike`):
                Folder to save to.
            adapter_only (`bool`, *optional*, defaults to `False`):
                Save the trained part only, to be loaded on its base model with `load_adapter`.
            kwargs (`dict`, *optional*):
                Passed on to [`~PreTrainedModel.save_pretrained`].
        """
        if not self._hf_peft_config_loaded:
            if adapter_only:
                raise ValueError("`adapter_only=True` needs a model with an adapter, got one without.")
            return super().save_pretrained(save_directory, *args, **kwargs)

        state_dict = kwargs.pop("state_dict", None) or self.state_dict()
        if kwargs.get("is_main_process", True):
            self._save_adapter(save_directory, state_dict)
        if adapter_only:
            return None
        self._hf_peft_config_loaded = False  # or else Transformers saves the adapter again, and nothing else
        try:
            return super().save_pretrained(save_directory, *args, state_dict=_base_state_dict(state_dict), **kwargs)
        finally:
            self._hf_peft_config_loaded = True

    def _save_adapter(self, save_directory, state_dict: dict[str, torch.Tensor]):
        """Writes the active adapter as PEFT does."""
        os.makedirs(save_directory, exist_ok=True)
        adapter_name = self.active_adapters()[0]
        tensors = self.get_adapter_state_dict(adapter_name, state_dict)
        tensors = {f"base_model.model.{name}": tensor.contiguous() for name, tensor in tensors.items()}
        save_file(tensors, os.path.join(save_directory, "adapter_model.safetensors"), metadata={"format": "pt"})
        self.peft_config[adapter_name].save_pretrained(save_directory)

    def merge_and_unload(self):
        """Merges LoRA into the LLM's weights, for deployment, and makes the trained modules the model's own."""
        if not self._hf_peft_config_loaded:
            raise ValueError("`merge_and_unload` needs a model with an adapter, got one without.")
        self._unload_adapters(merge=True)
        return self

    def _unload_adapters(self, merge: bool = False):
        """Puts the base model's own modules back in place of PEFT's, with or without what was trained."""
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils import ModulesToSaveWrapper

        for name, module in list(self.named_modules()):
            if isinstance(module, BaseTunerLayer):
                if merge:
                    module.merge(safe_merge=True)
                self.set_submodule(name, module.get_base_layer())
            elif isinstance(module, ModulesToSaveWrapper):
                trained = module.modules_to_save[module.active_adapters[0]]
                self.set_submodule(name, trained if merge else module.original_module)
        del self.peft_config
        self._hf_peft_config_loaded = False

    def _scale_lora(self, lora_scale: float | None):
        """Context in which LoRA acts `lora_scale` times as strongly."""
        if lora_scale is None:
            return nullcontext()
        if isinstance(lora_scale, bool) or not isinstance(lora_scale, (int, float)) or not 0 <= lora_scale < torch.inf:
            raise ValueError(f"`lora_scale` must be a number of at least 0, got {lora_scale!r}.")
        if not any("lora_" in name for name, _ in self.named_parameters()):
            raise ValueError(f"`lora_scale` needs a model with a LoRA adapter, got {lora_scale} for one without.")
        from peft.helpers import rescale_adapter_scale

        return rescale_adapter_scale(self, lora_scale)


def _base_state_dict(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a model with adapters that are the base model's, by the names that they have without adapters."""
    return {
        name.replace(".base_layer.", ".").replace(".original_module.", "."): tensor
        for name, tensor in state_dict.items()
        if ".lora_" not in name and ".modules_to_save." not in name
    }
