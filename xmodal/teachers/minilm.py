"""all-MiniLM-L6-v2: a sentence encoder of 22 million parameters, in plain torch.

A BERT of 6 layers written out here: it needs the weights file and the `tokenizers` package only,
and starts without importing a model library.

Source:
    Devlin et al., BERT, NAACL 2019; Reimers and Gurevych, Sentence-BERT, EMNLP 2019.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from xmodal.teachers.weights import MINILM, MINILM_TOKENIZER, need

CHANNELS = 384
_LAYERS, _HEADS, _EPS = 6, 12, 1e-12
# The length the encoder was trained for; longer texts are cut by its own recipe.
_MAX_TOKENS = 256
_BATCH = 64


class MiniLm:
    """Sentence embeddings of length 1; weights are read at first use."""

    licence = MINILM.licence
    weights_sha256 = MINILM.sha256

    @cached_property
    def _weights(self) -> dict[str, Tensor]:
        from safetensors.torch import load_file

        return load_file(MINILM.locate())

    @cached_property
    def _tokenizer(self) -> Any:
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise need("tokenizers", "embedded") from None
        tokenizer = Tokenizer.from_file(str(MINILM_TOKENIZER.locate()))
        tokenizer.enable_truncation(_MAX_TOKENS)
        tokenizer.enable_padding()
        return tokenizer

    def embed(self, sentences: list[str]) -> Float[Tensor, "N 384"]:
        """Mean-pooled, normalised embeddings; texts beyond 256 tokens are cut."""
        parts: list[Tensor] = []
        with torch.inference_mode():
            for start in range(0, len(sentences), _BATCH):
                encoded = self._tokenizer.encode_batch(sentences[start : start + _BATCH])
                tokens = torch.tensor([one.ids for one in encoded])
                real = torch.tensor([one.attention_mask for one in encoded], dtype=torch.bool)
                parts.append(_pooled(_encode(self._weights, tokens, real), real))
        # A clone leaves inference mode: callers may do arithmetic with gradients on it.
        return torch.cat(parts).clone() if parts else torch.zeros(0, CHANNELS)


def _pooled(states: Float[Tensor, "B L C"], real: Bool[Tensor, "B L"]) -> Float[Tensor, "B C"]:
    weight = real.to(states.dtype)[..., None]
    return functional.normalize((states * weight).sum(dim=1) / weight.sum(dim=1), dim=1)


def _encode(
    weights: dict[str, Tensor], tokens: Int64[Tensor, "B L"], real: Bool[Tensor, "B L"]
) -> Float[Tensor, "B L C"]:
    def linear(x: Tensor, name: str) -> Tensor:
        return functional.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        scale, shift = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return functional.layer_norm(x, (CHANNELS,), scale, shift, _EPS)

    def heads(x: Tensor) -> Tensor:
        return x.unflatten(-1, (_HEADS, -1)).transpose(1, 2)

    x = weights["embeddings.word_embeddings.weight"][tokens]
    x = x + weights["embeddings.position_embeddings.weight"][: tokens.shape[1]]
    x = norm(x + weights["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for layer in (f"encoder.layer.{index}" for index in range(_LAYERS)):
        query, key, value = (
            heads(linear(x, f"{layer}.attention.self.{part}")) for part in ("query", "key", "value")
        )
        seen = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=real[:, None, None, :]
        )
        seen = linear(seen.transpose(1, 2).flatten(2), f"{layer}.attention.output.dense")
        x = norm(x + seen, f"{layer}.attention.output.LayerNorm")
        inner = functional.gelu(linear(x, f"{layer}.intermediate.dense"))
        x = norm(x + linear(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    return x
