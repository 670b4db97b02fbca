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

"""How a SALMONN is saved, loaded and shared on the Hub: the base weights, the adapter beside them, and a model card."""

import copy
import hashlib
import json
import os
import re
import tempfile

import torch
from huggingface_hub import HfApi, ModelCard, ModelCardData
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers.utils import cached_file


try:
    from .base_weights_salmonn import ADAPTER_WEIGHTS, BASE_WEIGHTS, PEFT_PREFIX, find_base_name, record_base_weights
except ImportError:
    from base_weights_salmonn import ADAPTER_WEIGHTS, BASE_WEIGHTS, PEFT_PREFIX, find_base_name, record_base_weights


HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
MISSING_IS_NONE = {
    "_raise_exceptions_for_gated_repo": False,
    "_raise_exceptions_for_missing_entries": False,
    "_raise_exceptions_for_connection_errors": False,
}
UPLOAD_ARGUMENTS = ("commit_message", "commit_description", "create_pr", "private", "revision")

CARD = """
# {title}

A [SALMONN](https://arxiv.org/abs/2310.13289): a large language model that hears speech, sounds and music.
{content} The language above is that of the paper's training data, and the weights carry the licences of the models that
they are made of: mend both, and LICENSE.md, before you publish.

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
CODE = """
## Code

`trust_remote_code` runs the files beside the weights. Those of the release that saved them are, by sha256:

```
{sums}
```
"""
LOADING = """\
processor = AutoProcessor.from_pretrained({model!r}, trust_remote_code=True)
model = AutoModelForMultimodalLM.from_pretrained({model!r}, trust_remote_code=True)"""

# What `license: other` of a card links to.
LICENCES = """\
The weights carry the licences of the models that they are made of{parts}.
The code beside them (`*.py`) is under the Apache License, Version 2.0.
"""
CARD_FILES = ("README.md", "LICENSE.md")


def is_hub_id(name: str | None) -> bool:
    return bool(name) and re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not os.path.exists(name)


class SalmonnSharingMixin:
    """For SALMONN models: checkpoints of a base with its adapter. See `PreTrainedModel` and `PushToHubMixin`."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, base_check: str = "error", **kwargs):
        """
        Loads a model, with the adapter that lies beside it, or an adapter's folder or Hub id with the base model that
        it names. `base_check` is that of `load_adapter`; all else is as in [`~PreTrainedModel.from_pretrained`].
        """
        name, adapter_kwargs = pretrained_model_name_or_path, dict(kwargs.pop("adapter_kwargs", None) or {})
        hub = {key: kwargs[key] for key in HUB_ARGUMENTS if kwargs.get(key) is not None}
        if name is not None and "_adapter_model_path" not in adapter_kwargs:
            place = {key: value for key, value in {**hub, **adapter_kwargs}.items() if key in HUB_ARGUMENTS}
            # not `find_adapter_config_file`, which overlooks subfolders of a folder before Transformers 5.23
            file = cached_file(name, "adapter_config.json", **place, **MISSING_IS_NONE)
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
        for argument in ("dtype", "torch_dtype"):
            dtype = kwargs.get(argument)
            if isinstance(dtype, str) and dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
                raise ValueError(f"`{argument}` must be 'auto' or the name of a dtype, got {dtype!r}.")
        folder = os.path.join(str(pretrained_model_name_or_path), kwargs.get("subfolder") or "")
        if kwargs.get("config") is None and os.path.isdir(folder):
            # or else Transformers makes the default model, of 13 B parameters
            if not os.path.isfile(os.path.join(folder, "config.json")):
                raise ValueError(f"The folder {folder} holds no model: it has no config.json.")
        wants_info = kwargs.pop("output_loading_info", False)
        try:
            model, info = super().from_pretrained(
                pretrained_model_name_or_path,
                *model_args,
                adapter_kwargs=adapter_kwargs,
                output_loading_info=True,
                **kwargs,
            )
        except SafetensorError as error:
            raise WeightsError(f"The weights of {name} cannot be read, they may be truncated ({error}).") from error
        except RuntimeError as error:
            if "ignore_mismatched_sizes" not in str(error):
                raise
            raise WeightsError(
                f"The weights of {name} have other sizes than its configuration says, see the report above. ({error})"
            ) from error
        _check_connector(model, info["missing_keys"], name)
        return (model, info) if wants_info else model

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
        if os.path.isfile(save_directory):
            raise ValueError(f"`save_directory` must be a folder, got the file {save_directory}.")
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
        self.save_card(save_directory, adapter_only=adapter_only, repo_id=repo_id)
        if push_to_hub:
            # a card that is on the Hub stays
            before |= dict.fromkeys(CARD_FILES, torch.inf if api.file_exists(repo_id, "README.md") else 0)
            return self._upload_modified_files(save_directory, repo_id, before, token=kwargs.get("token"), **hub)

    def _save_adapter(
        self, save_directory, state_dict: dict[str, torch.Tensor], adapter_only: bool, repo_id: str | None
    ):
        """Writes the active adapter as PEFT does, and with it which base weights it belongs to."""
        from peft import get_peft_model_state_dict

        adapter_name = self._find_active_adapter()
        tensors = get_peft_model_state_dict(self, state_dict, adapter_name, save_embedding_layers=False)
        tensors = {f"{PEFT_PREFIX}{name}": tensor.contiguous() for name, tensor in tensors.items()}
        metadata = {"format": "pt", BASE_WEIGHTS: json.dumps(record_base_weights(self, state_dict))}
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

    def save_card(
        self, save_directory, content: str | None = None, adapter_only: bool = False, repo_id: str | None = None
    ):
        """
        Writes a model card, with a snippet that runs in its folder, or anywhere if it is on the Hub, and the file on licences
        that it links to. A card that is there stays, with all else.

        Args:
            save_directory (`str` or `os.PathLike`):
                Folder of the model.
            content (`str`, *optional*):
                A sentence or more on what is saved.
            adapter_only, repo_id:
                As in `save_pretrained`.
        """
        card, licences = (os.path.join(save_directory, name) for name in CARD_FILES)
        if os.path.exists(card):
            return
        names = [self.name_or_path] if adapter_only else self._base_models()
        bases = [name for name in names if is_hub_id(name)]
        data = ModelCardData(
            base_model=bases or None,
            base_model_relation=("adapter" if adapter_only else "finetune") if bases else None,
            language="en",
            library_name="peft" if adapter_only else "transformers",
            license="other",
            license_name="of-its-parts",
            license_link=CARD_FILES[1],
            pipeline_tag="audio-text-to-text",
            tags=["salmonn", "audio", "speech", "music", *(self.model_tags or [])],
        )
        own = repo_id or "."
        loading = LOADING.format(model=(self.name_or_path if adapter_only else own) or "path of the base model")
        if adapter_only:
            loading += f"\nmodel.load_adapter({own!r})"
            content = content or "This is an adapter: connector, norms and LoRA, to be loaded on its base model."
        content = content or "This is the whole model."
        text = CARD.format(title=own if repo_id else "SALMONN", content=content, loading=loading)
        text += CODE.format(sums=_hash_code())
        ModelCard(f"---\n{data.to_yaml()}\n---\n{text}").save(card)
        if not os.path.exists(licences):
            with open(licences, "w", encoding="utf-8") as file:
                file.write(LICENCES.format(parts=f": {', '.join(bases)}" if bases else ""))

    def _base_models(self) -> list[str]:
        """Names of the models that this one is made of, as far as their configurations have them."""
        parts = (self.config.speech_config, self.config.beats_config, self.config.text_config)
        return [part.name_or_path for part in parts if part is not None]


def _hash_code() -> str:
    """The sha256 of the files that are saved with models and processors, as `sha256sum` prints them."""
    folder, lines = os.path.dirname(os.path.abspath(__file__)), []
    for name in sorted(os.listdir(folder)):
        if name.endswith(("_beats.py", "_salmonn.py")):
            with open(os.path.join(folder, name), "rb") as file:
                lines.append(f"{hashlib.sha256(file.read()).hexdigest()}  {name}")
    return "\n".join(lines)


class WeightsError(ValueError, RuntimeError):
    """Files of weights that are damaged or do not fit: a `ValueError`, and what Transformers raises."""


def _check_connector(model, missing_keys, name) -> None:
    """Raises a `ValueError` if a file has an LLM but not all that stands before it, which would be random."""
    missing = sorted(key for key in missing_keys if "connector." in key or "_layer_norm." in key)
    has_llm = not any(".embed_tokens." in key or key.startswith("embed_tokens.") for key in missing_keys)
    if missing and has_llm and not getattr(model, "_hf_peft_config_loaded", False):
        raise ValueError(
            f"The weights of {name} lack {len(missing)} tensors of the connector, which would be random, such as "
            f"{missing[0]}. If they are in an adapter, load that with `adapter_kwargs`."
        )
