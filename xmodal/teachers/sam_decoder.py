"""SAM's mask decoder for single-point prompts, rearranged so that a prompt costs a third.

The result is the decoder's own, up to rounding; three things make it cheaper:

- With seven tokens against 4096 image cells it is cheaper to carry the tokens' queries through the
  image's projection matrix (`q (K W)' = (q W') K'`) than to project the image: a third of the work
  of every cross attention.
- In the first layer the image is the same for all prompts; its projections are shared.
- Masks are upscaled only for prompts whose predicted IoU passes, so there are two modules. The
  upscaling works with channels last, where transposed convolutions of stride 2 are products.

Source:
    Kirillov et al., Segment Anything, ICCV 2023, appendix A.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

CELLS = 64
_NUM_MASKS = 3


class PromptTokens(nn.Module):
    """Prompt encoder and two-way transformer: what each prompt makes of the image."""

    def __init__(self, sam: Any, input_side: int) -> None:
        super().__init__()
        prompt, decoder = sam.prompt_encoder, sam.mask_decoder
        self._side = input_side
        self._encode = prompt.pe_layer._pe_encoding
        self.cell_position = nn.Buffer(prompt.get_dense_pe().detach().flatten(2).transpose(1, 2))
        self.no_mask = nn.Buffer(prompt.no_mask_embed.weight.detach()[None])
        self.point = nn.Buffer(prompt.point_embeddings[1].weight.detach())
        self.padding = nn.Buffer(prompt.not_a_point_embed.weight.detach())
        learned = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        self.learned = nn.Buffer(learned.detach()[None])
        self.layers = decoder.transformer.layers
        self.final = _TokensToImage(decoder.transformer.final_attn_token_to_image)
        self.final_norm = decoder.transformer.norm_final_attn
        self.second_read = _TokensToImage(self.layers[1].cross_attn_token_to_image)
        self.writes = nn.ModuleList(
            _ImageToTokens(layer.cross_attn_image_to_token) for layer in self.layers
        )
        self.iou_head = decoder.iou_prediction_head
        self.hyper = decoder.output_hypernetworks_mlps

    def forward(
        self, embedding: Float[Tensor, "1 256 64 64"], xy: Float[Tensor, "N 2"]
    ) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "N 3 32"], Float[Tensor, "N 4096 256"]]:
        """Predicted IoU, mask coefficients and image cells of each prompt."""
        tokens = self._prompts(xy)
        cells = embedding.flatten(2).transpose(1, 2) + self.no_mask
        first, second = self.layers[0], self.layers[1]
        state = first.norm1(first.self_attn(q=tokens, k=tokens, v=tokens))
        located = cells + self.cell_position
        # The cells still have a batch of one here, which broadcasts over the prompts.
        read = first.cross_attn_token_to_image(q=state + tokens, k=located, v=cells)
        state = _think(first, state + read)
        cells = first.norm4(cells + self.writes[0](located, state + tokens, state))
        query = state + tokens
        state = second.norm1(state + second.self_attn(q=query, k=query, v=state))
        located = cells + self.cell_position
        state = _think(second, state + self.second_read(state + tokens, located, cells))
        cells = second.norm4(cells + self.writes[1](located, state + tokens, state))
        located = cells + self.cell_position
        state = self.final_norm(state + self.final(state + tokens, located, cells))
        # The first mask is the single-mask answer, meant for prompts of several points.
        coefficients = [self.hyper[k](state[:, 1 + k]) for k in range(1, 1 + _NUM_MASKS)]
        return self.iou_head(state[:, 0])[:, 1:], torch.stack(coefficients, dim=1), cells

    def _prompts(self, xy: Tensor) -> Tensor:
        point = self._encode((xy + 0.5) / self._side) + self.point
        # SAM pads a prompt without a box with one "not a point".
        prompt = torch.stack([point, self.padding.expand_as(point)], dim=1)
        return torch.cat([self.learned.expand(xy.shape[0], -1, -1), prompt], dim=1)


class MaskUpscaler(nn.Module):
    """Masks of 256 x 256 cells from the image cells and mask coefficients of prompts."""

    def __init__(self, sam: Any) -> None:
        super().__init__()
        first, self.norm, _, second, _ = sam.mask_decoder.output_upscaling
        self.first, self.first_bias = _as_product(first)
        self.second, self.second_bias = _as_product(second)

    def forward(
        self, coefficients: Float[Tensor, "N 3 32"], cells: Float[Tensor, "N 4096 256"]
    ) -> Float[Tensor, "N 3 256 256"]:
        """Mask logits."""
        width = self.norm.weight.shape[0]
        x = (cells @ self.first + self.first_bias).reshape(-1, 4 * CELLS * CELLS, width)
        x = functional.layer_norm(x, (width,), self.norm.weight, self.norm.bias, self.norm.eps)
        x = functional.gelu(x) @ self.second + self.second_bias
        x = functional.gelu(x).reshape(-1, 16 * CELLS * CELLS, coefficients.shape[2])
        masks = x @ coefficients.transpose(1, 2)
        # Axes: cell row and column, then row and column within each of the two doublings.
        masks = masks.reshape(-1, CELLS, CELLS, 2, 2, 2, 2, _NUM_MASKS)
        masks = masks.permute(0, 7, 1, 3, 5, 2, 4, 6)
        return masks.reshape(-1, _NUM_MASKS, 4 * CELLS, 4 * CELLS)


class _TokensToImage(nn.Module):
    """Cross attention of tokens to cells; the cells are never projected."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.attention = attention
        heads = self.heads = int(attention.num_heads)
        self.scale = (attention.internal_dim // heads) ** -0.5
        self.key = nn.Buffer(attention.k_proj.weight.detach().unflatten(0, (heads, -1)))
        value = attention.v_proj.weight.detach().unflatten(0, (heads, -1))
        self.value = nn.Buffer(value.transpose(1, 2).contiguous())
        self.value_bias = nn.Buffer(attention.v_proj.bias.detach().view(heads, 1, -1))

    def forward(self, query: Tensor, located: Tensor, cells: Tensor) -> Tensor:
        q = _heads(self.attention.q_proj(query), self.heads)
        # The bias of the keys adds the same to all cells and drops out of the soft-max.
        carried = ((q * self.scale) @ self.key).flatten(1, 2)
        weights = torch.softmax(carried @ located.transpose(1, 2), dim=-1)
        mixed = (weights @ cells).unflatten(1, (self.heads, -1))
        # Weights sum to one, so the bias of the values is added once.
        out = mixed @ self.value + self.value_bias
        return self.attention.out_proj(out.transpose(1, 2).flatten(2))


class _ImageToTokens(nn.Module):
    """Cross attention of cells to tokens; neither queries nor outputs of cells are projected."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.attention = attention
        heads = self.heads = int(attention.num_heads)
        self.scale = (attention.internal_dim // heads) ** -0.5
        self.query = nn.Buffer(attention.q_proj.weight.detach().unflatten(0, (heads, -1)))
        self.query_bias = nn.Buffer(attention.q_proj.bias.detach().view(heads, -1, 1))
        out = attention.out_proj.weight.detach().T.unflatten(0, (heads, -1))
        self.out = nn.Buffer(out.contiguous())

    def forward(self, located: Tensor, key: Tensor, value: Tensor) -> Tensor:
        k = _heads(self.attention.k_proj(key), self.heads) * self.scale
        v = _heads(self.attention.v_proj(value), self.heads)
        carried = (k @ self.query).flatten(1, 2)
        offset = (k @ self.query_bias).flatten(1)
        scores = located @ carried.transpose(1, 2) + offset[:, None]
        weights = torch.softmax(scores.unflatten(2, (self.heads, -1)), dim=-1).flatten(2)
        return weights @ (v @ self.out).flatten(1, 2) + self.attention.out_proj.bias


def _think(layer: Any, state: Tensor) -> Tensor:
    state = layer.norm2(state)
    return layer.norm3(state + layer.mlp(state))


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _as_product(layer: Any) -> tuple[nn.Buffer, nn.Buffer]:
    """A transposed convolution of kernel and stride 2 as a product, channels last."""
    weight = layer.weight.detach().permute(0, 2, 3, 1).flatten(1)
    return nn.Buffer(weight.contiguous()), nn.Buffer(layer.bias.detach().repeat(4))
