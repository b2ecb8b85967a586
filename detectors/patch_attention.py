"""Attention over patches: what the transformers over spectrograms and readings share."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from detectors.clip_student import ClipSize

# Width, blocks and heads.
PATCH_SIZES: dict[ClipSize, tuple[int, int, int]] = {
    "micro": (80, 3, 4),
    "tiny": (112, 5, 4),
    "small": (192, 6, 6),
    "base": (320, 8, 8),
}
_MLP_RATIO = 3
_POSITION_STD = 0.02


class PatchBlocks(nn.Module):
    """Blocks of attention and perceptron over patches with learnt places.

    Args:
        width: Channels of a patch.
        depth: Number of blocks.
        heads: Heads of the attention; they divide the width.
        num_patches: Patches of an input.

    Source:
        Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021, section 3.1; without a class
        token: rows are the mean over patches.
    """

    def __init__(self, width: int, depth: int, heads: int, num_patches: int) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(1, num_patches, width) * _POSITION_STD)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(
        self, x: Float[Tensor, "B P D"], seen: Bool[Tensor, "B P"] | None = None
    ) -> list[Float[Tensor, "B P D"]]:
        """What every block gives; the last one normalised.

        Args:
            x: Patches.
            seen: Patches that others may look at; None for all. Where there is none, all are.
        """
        x = x + self.position
        allowed = None
        if seen is not None:
            # Attention to nothing is not a number, so an input without any patch sees all of them.
            seen = seen | ~seen.any(dim=1, keepdim=True)
            allowed = seen[:, None, None, :]
        found: list[Tensor] = []
        for block in self.blocks:
            x = block(x, allowed)
            found.append(x)
        return [*found[:-1], self.norm(found[-1])]


class _Block(nn.Module):
    """Attention of patches to each other, then a perceptron; norms come first."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.three = nn.Linear(width, 3 * width)
        self.back = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, _MLP_RATIO * width),
            nn.GELU(),
            nn.Linear(_MLP_RATIO * width, width),
        )

    def forward(
        self, x: Float[Tensor, "B P D"], allowed: Bool[Tensor, "B 1 1 P"] | None
    ) -> Float[Tensor, "B P D"]:
        """The block's output."""
        three = self.three(self.attention_norm(x)).unflatten(2, (3, self.heads, -1))
        query, key, value = three.movedim(3, 1).unbind(dim=3)
        looked = functional.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        x = x + self.back(looked.movedim(1, 2).flatten(2))
        return x + self.mlp(x)


def masked_mean(
    x: Float[Tensor, "B P D"], seen: Bool[Tensor, "B P"] | None = None
) -> Float[Tensor, "B D"]:
    """Mean over the patches that were seen; zeros where none was."""
    if seen is None:
        return x.mean(dim=1)
    share = seen[:, :, None].to(x.dtype)
    return (x * share).sum(dim=1) / share.sum(dim=1).clamp_min(1.0)
