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
The connectors of SALMONN: modules that turn windows of encoder frames into audio tokens for the LLM (arXiv 2310.13289
and 2309.13963).
"""

from collections.abc import Callable

import torch
from torch import nn
from transformers import AutoModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


try:
    from .configuration_salmonn import SalmonnConfig
    from .modeling_beats import eager_attention_forward
except ImportError:
    from configuration_salmonn import SalmonnConfig
    from modeling_beats import eager_attention_forward


class SalmonnQFormerConnector(nn.Module):
    """Q-Former: `num_query_tokens` learned queries cross-attend to each window (2310.13289, section 3.1)."""

    def __init__(self, config: SalmonnConfig):
        super().__init__()
        hidden_size = config.qformer_config.hidden_size
        self.query_tokens = nn.Parameter(torch.zeros(1, config.num_query_tokens, hidden_size))
        self.qformer = AutoModel.from_config(config.qformer_config, dtype=torch.get_default_dtype())
        self.projection = nn.Linear(hidden_size, config.text_config.hidden_size)

    def forward(self, windows: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """
        `windows`: `(num_windows, window, width)`, `attention_mask`: `(num_windows, window)`, 1 is real ->
        `(num_windows, num_query_tokens, text_hidden_size)`.
        """
        windows = windows.to(self.query_tokens.dtype)
        hidden_states = self.qformer(
            query_embeds=self.query_tokens.expand(windows.shape[0], -1, -1),
            encoder_hidden_states=windows,
            encoder_attention_mask=attention_mask,
        ).last_hidden_state
        return self.projection(hidden_states)


class SalmonnLinearConnector(nn.Module):
    """The frames of a window stacked, then two linear layers with a ReLU between (2309.13963, section 2.2)."""

    def __init__(self, config: SalmonnConfig):
        super().__init__()
        self.linear_1 = nn.Linear(config.window_frames * config.encoder_width, config.connector_hidden_size)
        self.linear_2 = nn.Linear(config.connector_hidden_size, config.text_config.hidden_size)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """`windows`: `(num_windows, window, width)` -> `(num_windows, 1, text_hidden_size)`."""
        stacked = windows.flatten(1).to(self.linear_1.weight.dtype)
        return self.linear_2(nn.functional.relu(self.linear_1(stacked))).unsqueeze(1)


class SalmonnCrossAttention(nn.Module):
    """Multi-head attention from audio tokens to the rows of the LLM's embedding table."""

    def __init__(self, config: SalmonnConfig):
        super().__init__()
        self.config = config
        hidden_size = config.text_config.hidden_size
        self.head_dim = hidden_size // config.connector_num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.q_proj = nn.Linear(hidden_size, hidden_size)
        self.k_proj = nn.Linear(hidden_size, hidden_size)
        self.v_proj = nn.Linear(hidden_size, hidden_size)
        self.o_proj = nn.Linear(hidden_size, hidden_size)

    def forward(
        self, hidden_states: torch.Tensor, text_embeddings: torch.Tensor | None, kept: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """`hidden_states`: `(tokens, text_hidden_size)`; `text_embeddings`: `(vocab_size, text_hidden_size)`."""
        # every token looks at the same table, so all of them are queries of one batch item: (1, heads, length, head_dim)
        query = self.q_proj(hidden_states).view(1, hidden_states.shape[0], -1, self.head_dim).transpose(1, 2)
        if not kept:
            shape = (1, text_embeddings.shape[0], -1, self.head_dim)
            kept["key"] = self.k_proj(text_embeddings).view(shape).transpose(1, 2)
            kept["value"] = self.v_proj(text_embeddings).view(shape).transpose(1, 2)
        attention_interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        attention_output, _ = attention_interface(
            self, query, kept["key"], kept["value"], None, scaling=self.scaling, dropout=0.0
        )
        return self.o_proj(attention_output.reshape(hidden_states.shape))


class SalmonnCrossAttentionConnector(nn.Module):
    """A strided convolution, then attention over the LLM's own embedding table (2309.13963, section 2.2)."""

    def __init__(self, config: SalmonnConfig):
        super().__init__()
        # a convolution over whole windows is a linear layer over the stacked frames
        self.convolution = nn.Linear(config.window_frames * config.encoder_width, config.connector_hidden_size)
        self.projection = nn.Linear(config.connector_hidden_size, config.text_config.hidden_size)
        self.attention = SalmonnCrossAttention(config)

    def forward(
        self,
        windows: torch.Tensor,
        text_embeddings: torch.Tensor | None,
        kept: dict[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """
        `windows`: `(num_windows, window, width)`, `text_embeddings`: `(vocab_size, text_hidden_size)` ->
        `(num_windows, 1, text_hidden_size)`. `kept` is given again with further windows, and an empty one with the first: keys
        and values of `text_embeddings` are computed once, and are more work than a clip.
        """
        dtype = self.projection.weight.dtype
        hidden_states = self.projection(self.convolution(windows.flatten(1).to(dtype)))
        text_embeddings = None if text_embeddings is None else text_embeddings.to(dtype)
        return self.attention(hidden_states, text_embeddings, {} if kept is None else kept).unsqueeze(1)


CONNECTORS = {
    "qformer": SalmonnQFormerConnector,
    "linear": SalmonnLinearConnector,
    "cross_attention": SalmonnCrossAttentionConnector,
}
