"""Features of every place of an image in CLIP's joint space, by the model's own last layers.

Where the image vector is an attention pooling (class token of a transformer, attention pool of a
ResNet), a place's feature is what the pooling would give if it looked at that place alone, without
the residual and the MLP: the value path of MaskCLIP. Elsewhere (average pools, timm's pooling
heads) the model's own head is run on each place alone. `pooled_from_values` puts the values back
together by the model's own attention and must equal the model's image vector; the tests hold it to
that.

Source:
    Zhou et al., Extract Free Dense Labels from CLIP (MaskCLIP), ECCV 2022.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from xmodal.errors import BackendError


def stride_of(visual: Any) -> int:
    """Pixels of the network's input per place, along each side."""
    if hasattr(visual, "conv1") and hasattr(visual, "patch_size"):
        return int(visual.patch_size[0])
    if hasattr(visual, "trunk"):
        embed = getattr(visual.trunk, "patch_embed", None)
        patch = getattr(embed, "patch_size", None)
        return int(patch[0]) if patch is not None else 32
    return 32


def takes_any_size(visual: Any) -> bool:
    """Whether the network can see images of any size in whole strides."""
    if not hasattr(visual, "trunk"):
        return True
    trunk = visual.trunk
    return hasattr(trunk, "dynamic_img_size") or not hasattr(trunk, "patch_embed")


def dense_rows(
    visual: Any, x: Float[Tensor, "1 3 H W"]
) -> tuple[Float[Tensor, "N C"], tuple[int, int]]:
    """Features of every place in the joint space, not normalised.

    Args:
        visual: Image tower of an open_clip model, in eval mode.
        x: A normalised image whose sides are multiples of `stride_of(visual)`.

    Returns:
        Features in row-major order, and the grid's height and width.

    Raises:
        BackendError: If the tower's pooling is of a kind that has no value path.
    """
    if hasattr(visual, "attnpool"):
        tokens, grid_hw = _resnet_tokens(visual, x)
        return _resnet_values(visual.attnpool, tokens)[0, 1:], grid_hw
    if hasattr(visual, "transformer") and hasattr(visual, "conv1"):
        grid_hw = (x.shape[2] // visual.patch_size[0], x.shape[3] // visual.patch_size[1])
        return _vit_rows(visual, x), grid_hw
    if hasattr(visual, "trunk"):
        return _timm_rows(visual, x)
    raise _unsupported(visual, type(visual).__name__)


def pooled_from_values(visual: Any, x: Float[Tensor, "1 3 H W"]) -> Float[Tensor, " C"]:
    """The image vector, pooled by the model's own attention from the values of `dense_rows`.

    Raises:
        BackendError: If the tower does not pool by attention over values.
    """
    if hasattr(visual, "attnpool"):
        pool = visual.attnpool
        tokens, _ = _resnet_tokens(visual, x)
        query, key = pool.q_proj(tokens[:, :1]), pool.k_proj(tokens)
        mixed = _attend(query, key, pool.v_proj(tokens), pool.num_heads)
        return pool.c_proj(mixed)[0, 0]
    if _has_value_path(visual):
        block = visual.transformer.resblocks[-1]
        tokens = _vit_tokens(visual, x, without_last=True)
        query, key, value = _vit_qkv(block, tokens)
        mixed = block.attn.out_proj(_attend(query[:, :1], key, value, block.attn.num_heads))
        token = tokens[:, :1] + block.ls_1(mixed)
        token = token + block.ls_2(block.mlp(block.ln_2(token)))
        return (visual.ln_post(token) @ visual.proj)[0, 0]
    raise _unsupported(visual, "no attention pooling")


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    query, key, value = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (query, key, value))
    mixed = functional.scaled_dot_product_attention(query, key, value)
    return mixed.transpose(1, 2).flatten(2)


# ---- open_clip's own transformer ------------------------------------------------------------


def _has_value_path(visual: Any) -> bool:
    """Class-token pooling behind a plain attention block."""
    if not hasattr(visual, "transformer") or visual.attn_pool is not None:
        return False
    attention = getattr(visual.transformer.resblocks[-1], "attn", None)
    return visual.pool_type == "tok" and isinstance(attention, nn.MultiheadAttention)


def _vit_rows(visual: Any, x: Tensor) -> Tensor:
    if _has_value_path(visual):
        block = visual.transformer.resblocks[-1]
        tokens = _vit_tokens(visual, x, without_last=True)
        value = _vit_qkv(block, tokens)[2]
        rows = visual.ln_post(block.ls_1(block.attn.out_proj(value)))[0, 1:]
    elif visual.attn_pool is None and visual.pool_type == "tok":
        raise _unsupported(visual, type(visual.transformer.resblocks[-1]).__name__)
    else:
        # Average or latent pooling: each place pooled alone, as a sequence of one token. A second
        # copy stands where an average drops the class token.
        tokens = _vit_tokens(visual, x, without_last=False)[0, 1:, None]
        if visual.attn_pool is None:
            tokens = tokens.expand(-1, 2, -1)
        rows = visual._pool(tokens)[0]
    return rows if visual.proj is None else rows @ visual.proj


def _vit_tokens(visual: Any, x: Tensor, *, without_last: bool) -> Tensor:
    """Tokens before or behind the last block; position embeddings follow the image's size."""
    patches = visual.conv1(x)
    grid_hw = (patches.shape[2], patches.shape[3])
    tokens = patches.flatten(2).transpose(1, 2)
    tokens = torch.cat([visual.class_embedding.expand(tokens.shape[0], 1, -1), tokens], dim=1)
    tokens = tokens + resized_positions(visual.positional_embedding, visual.grid_size, grid_hw)
    tokens = visual.ln_pre(tokens)
    blocks = list(visual.transformer.resblocks)
    for block in blocks[:-1] if without_last else blocks:
        tokens = block(tokens)
    return tokens


def _vit_qkv(block: Any, tokens: Tensor) -> tuple[Tensor, ...]:
    normed = block.ln_1(tokens)
    attention = block.attn
    return functional.linear(normed, attention.in_proj_weight, attention.in_proj_bias).chunk(3, -1)


def resized_positions(
    embedding: Float[Tensor, "P C"], old_hw: tuple[int, int], new_hw: tuple[int, int]
) -> Float[Tensor, "Q C"]:
    """Position embeddings (class token first) for a grid of another size, by bicubic resampling."""
    if tuple(old_hw) == tuple(new_hw):
        return embedding
    first, rest = embedding[:1], embedding[1:]
    grid = rest.T.unflatten(1, tuple(old_hw))[None]
    grid = functional.interpolate(
        grid, size=new_hw, mode="bicubic", antialias=True, align_corners=False
    )
    return torch.cat([first, grid[0].flatten(1).T])


# ---- ResNets with attention pooling ---------------------------------------------------------


def _resnet_tokens(visual: Any, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """The pool's tokens (their mean first) with position embeddings for this image's size."""
    features = visual.stem(x)
    for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        features = layer(features)
    grid_hw = (features.shape[2], features.shape[3])
    tokens = features.flatten(2).transpose(1, 2)
    tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)
    embedding = visual.attnpool.positional_embedding
    side = round((embedding.shape[0] - 1) ** 0.5)
    return tokens + resized_positions(embedding, (side, side), grid_hw), grid_hw


def _resnet_values(pool: Any, tokens: Tensor) -> Tensor:
    return pool.c_proj(pool.v_proj(tokens))


# ---- timm trunks ----------------------------------------------------------------------------


def _timm_rows(visual: Any, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """The trunk's own head on each place alone."""
    trunk = visual.trunk
    if hasattr(visual.head, "pool"):
        raise _unsupported(visual, "a timm trunk with a spatial attention head")
    if getattr(trunk, "global_pool", "") == "token":
        raise _unsupported(visual, "a timm trunk with a class token")
    if hasattr(trunk, "dynamic_img_size") and not trunk.dynamic_img_size:
        _make_dynamic(trunk)
    features = trunk.forward_features(x)
    if features.ndim == 4:
        if getattr(trunk, "output_fmt", "NCHW") == "NHWC":
            grid_hw, places = (features.shape[1], features.shape[2]), features.flatten(1, 2)[0]
            single = places[:, None, None]
        else:
            grid_hw, places = (features.shape[2], features.shape[3]), features.flatten(2)[0].T
            single = places[:, :, None, None]
    else:
        stride = stride_of(visual)
        grid_hw = (x.shape[2] // stride, x.shape[3] // stride)
        prefix = int(getattr(trunk, "num_prefix_tokens", 0))
        places = features[0, prefix:, None]
        # Latent pooling looks at all tokens it is given; an average leaves the prefix out.
        latent = getattr(trunk, "attn_pool", None) is not None
        single = places if latent else places.expand(-1, prefix + 1, -1)
    return visual.head(trunk.forward_head(single)), grid_hw


def _make_dynamic(trunk: Any) -> None:
    """Let a timm transformer that was built for one size see any size in whole patches."""
    from timm.layers.format import Format

    embed = trunk.patch_embed
    trunk.dynamic_img_size = True
    embed.strict_img_size, embed.flatten, embed.output_fmt = False, False, Format.NHWC


def _unsupported(visual: Any, got: str) -> BackendError:
    return BackendError(
        f"teacher openclip, image tower {type(visual).__name__}",
        wanted="a tower whose pooling has a value path (ViT, attention-pooled ResNet, timm pools)",
        got=got,
        fix="use regions: masks, which classifies crops with any model",
    )
