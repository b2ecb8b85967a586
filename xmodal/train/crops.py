"""Pieces of a scene for one training step: spatial crops and augmentation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Augment:
    """What is varied from crop to crop; everything off means the scene as it is.

    Attributes:
        shift: Move the grid of voxels by up to a metre, so that borders of voxels are not learnt.
        rotate_rad: Largest turn about `up`, to both sides; pi for any direction.
        scale: Largest relative change of size.
        jitter_m: Standard deviation of noise on every coordinate, metres.
        input_jitter: Standard deviation of a gain and an offset, one of each per input channel and
            crop (brightness, colour cast, height of the floor).
        up: Axis that rotations are about.
    """

    shift: bool = True
    rotate_rad: float = 0.0
    scale: float = 0.0
    jitter_m: float = 0.0
    input_jitter: float = 0.0
    up: str = "z"

    def __post_init__(self) -> None:
        amounts = (self.rotate_rad, self.scale, self.jitter_m, self.input_jitter)
        if not all(0 <= amount < float("inf") for amount in amounts) or self.scale >= 1:
            msg = f"amounts of augmentation must be 0 or more, and scale below 1: {self}"
            raise ValueError(msg)

    def positions(
        self, xyz: Float[Tensor, "N 3"], rng: np.random.Generator
    ) -> Float[Tensor, "N 3"]:
        """Vary positions; always draws the same count of numbers for the same settings."""
        if self.rotate_rad > 0:
            xyz = xyz @ _turn(rng.uniform(-self.rotate_rad, self.rotate_rad), self.up).T
        if self.scale > 0:
            xyz = xyz * float(1.0 + rng.uniform(-self.scale, self.scale))
        if self.jitter_m > 0:
            noise = rng.standard_normal(tuple(xyz.shape), dtype=np.float32) * self.jitter_m
            xyz = xyz + torch.from_numpy(noise).to(xyz.dtype)
        if self.shift:
            xyz = xyz + torch.from_numpy(rng.random(3)).to(xyz.dtype)
        return xyz

    def inputs(
        self, inputs: Float[Tensor, "N Ci"], rng: np.random.Generator
    ) -> Float[Tensor, "N Ci"]:
        """Vary the input channels."""
        if self.input_jitter == 0:
            return inputs
        gain, offset = rng.standard_normal((2, inputs.shape[1]), dtype=np.float32)
        gain = torch.from_numpy(1.0 + self.input_jitter * gain)
        return inputs * gain + torch.from_numpy(self.input_jitter * offset)


def nearest(xyz: Float[Tensor, "N 3"], centre: Float[Tensor, " 3"], num: int) -> Int[Tensor, " K"]:
    """Rows of the `num` points nearest to `centre`, in ascending order (all when there are fewer).

    A ball of a fixed number of points keeps the cost of a step the same in sparse and dense places.
    """
    if len(xyz) <= num:
        return torch.arange(len(xyz))
    distance = (xyz - centre).square().sum(dim=1)
    return distance.topk(num, largest=False, sorted=False).indices.sort().values


def _turn(angle_rad: float, up: str) -> Tensor:
    c, s = float(np.cos(angle_rad)), float(np.sin(angle_rad))
    axis = "xyz".index(up[-1])
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrix = torch.eye(3)
    matrix[first, first], matrix[second, second] = c, c
    matrix[first, second], matrix[second, first] = -s, s
    return matrix
