"""Elastic distortion: a smooth random bend of space, for training."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

# Two passes of a box of three cells along each axis give the weights 1 2 3 2 1 over 9.
_SMOOTH = (1.0, 2.0, 3.0, 2.0, 1.0)
# What those passes leave of the variance of white noise: 19 / 81 along each axis.
_LEFT = (sum(w * w for w in _SMOOTH) / sum(_SMOOTH) ** 2) ** 3
# A finer grid than this would cost more than the network: 3 numbers for each of 4 million nodes.
_MAX_NODES = 4_000_000


def bend(
    xyz: Float[Tensor, "N 3"], rng: np.random.Generator, *, grain_m: float, magnitude_m: float
) -> Float[Tensor, "N 3"]:
    """Move points by a smooth random field; neighbours move together.

    Args:
        xyz: Positions, metres.
        rng: Where the field comes from.
        grain_m: Spacing of the nodes of the field; it varies over about three of them.
        magnitude_m: Standard deviation of the displacement of a node along each axis.

    Raises:
        ValueError: If the field would have more than four million nodes.

    Source:
        Simard et al., Best Practices for Convolutional Neural Networks, ICDAR 2003, in three
        dimensions as it is used for sparse convolutions (Choy et al., CVPR 2019).
    """
    if len(xyz) == 0:
        return xyz
    low = xyz.amin(dim=0)
    cells = ((xyz - low) / grain_m).to(torch.float32)
    size = [int(n) + 2 for n in cells.amax(dim=0).tolist()]
    # The smoothing takes two nodes off at each end.
    shape = (3, 1, size[0] + 4, size[1] + 4, size[2] + 4)
    if shape[2] * shape[3] * shape[4] > _MAX_NODES:
        msg = f"a field of {size} nodes; raise the grain above {grain_m} m, or take smaller crops"
        raise ValueError(msg)
    noise = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
    kernel = torch.tensor(_SMOOTH) / sum(_SMOOTH)
    for axis in range(3):
        form = [1, 1, 1, 1, 1]
        form[2 + axis] = len(_SMOOTH)
        noise = functional.conv3d(noise, kernel.view(form))
    # `grid_sample` wants the last axis first, in [-1, 1] from node to node.
    place = 2.0 * cells / (torch.tensor(size, dtype=torch.float32) - 1.0) - 1.0
    moved = functional.grid_sample(
        noise.view(1, 3, *size), place.flip(1).view(1, -1, 1, 1, 3), align_corners=True
    ).view(3, -1)
    return xyz + (moved.T * (magnitude_m / _LEFT**0.5)).to(xyz.dtype)
