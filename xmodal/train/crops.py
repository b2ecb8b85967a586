"""Pieces of a scene for one training step: spatial crops and augmentation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from xmodal.train.elastic import bend

# Inputs that say where up is: a turn that is not about that axis makes them wrong.
_UPRIGHT = ("normals", "height")


@dataclass(frozen=True, kw_only=True)
class Augment:
    """What is varied from crop to crop; everything off means the scene as it is.

    Positions are moved after the lift and after the inputs were described, row by row, so a point
    keeps its teacher's row. What a point is told about itself must stay true: turns about `up`,
    mirrors and changes of size leave |normal . up| and the order of heights as they are; a tilt
    does not and is refused for students with `normals` or `height`. A bend leaves them about right
    while `elastic_m` is small beside `elastic_grain_m`. `xyz` stays the place in the world.

    Attributes:
        shift: Move the grid of voxels by up to a metre, so that borders of voxels are not learnt.
        rotate_rad: Largest turn about `up`, to both sides; pi for any direction.
        tilt_rad: Largest turn about each of the two level axes.
        flip: Probability of a mirror, for each of the two vertical planes.
        scale: Largest relative change of size.
        jitter_m: Standard deviation of noise on every coordinate, metres.
        elastic_m: Standard deviation of a smooth bend of space, metres.
        elastic_grain_m: Distance over which the bend changes, metres.
        input_jitter: Standard deviation of a gain and an offset, one of each per input channel and
            crop (brightness, colour cast, height of the floor).
        drop_colour: Probability that a crop comes without colour (zeros, which is mid-grey).
        drop_normals: Probability that a crop comes without normals.
        up: Axis that rotations are about.
    """

    shift: bool = True
    rotate_rad: float = 0.0
    tilt_rad: float = 0.0
    flip: float = 0.0
    scale: float = 0.0
    jitter_m: float = 0.0
    elastic_m: float = 0.0
    elastic_grain_m: float = 0.4
    input_jitter: float = 0.0
    drop_colour: float = 0.0
    drop_normals: float = 0.0
    up: str = "z"

    def __post_init__(self) -> None:
        amounts = (self.rotate_rad, self.tilt_rad, self.scale, self.jitter_m, self.input_jitter)
        if not all(0 <= a < math.inf for a in (*amounts, self.elastic_m)) or self.scale >= 1:
            msg = f"amounts of augmentation must be 0 or more, and scale below 1: {self}"
            raise ValueError(msg)
        if not all(0 <= p <= 1 for p in (self.flip, self.drop_colour, self.drop_normals)):
            msg = f"flip, drop_colour, drop_normals of augmentation are probabilities: {self}"
            raise ValueError(msg)
        if not 0 < self.elastic_grain_m < math.inf:
            msg = f"elastic_grain_m of augmentation must be above 0, not {self.elastic_grain_m}"
            raise ValueError(msg)

    def check_inputs(self, inputs: tuple[str, ...], up: str) -> None:
        """Refuse what would make a student's inputs untrue.

        Args:
            inputs: What each point is told, such as `rgb` and `height`.
            up: The axis that those inputs take for up.

        Raises:
            ValueError: If positions turn away from the axis that `normals` or `height` tell of.
        """
        upright = [name for name in _UPRIGHT if name in inputs]
        if upright and self.tilt_rad > 0:
            msg = f"tilt_rad tips the room over, but {' and '.join(upright)} say where up is"
            raise ValueError(msg)
        if upright and self.up[-1] != up[-1] and (self.rotate_rad > 0 or self.flip > 0):
            msg = f"turns are about {self.up}, but {' and '.join(upright)} take {up} for up"
            raise ValueError(msg)

    def positions(
        self, xyz: Float[Tensor, "N 3"], rng: np.random.Generator
    ) -> Float[Tensor, "N 3"]:
        """Vary the positions of one crop."""
        if self.elastic_m > 0:
            grain_m, magnitude_m = self.elastic_grain_m, self.elastic_m
            xyz = bend(xyz, rng, grain_m=grain_m, magnitude_m=magnitude_m)
        for angle_rad, axis in self._turns(rng):
            xyz = xyz @ _turn(angle_rad, axis).to(xyz.dtype).T
        if self.flip > 0:
            xyz = xyz * self._mirror(rng).to(xyz.dtype)
        if self.scale > 0:
            xyz = xyz * float(1.0 + rng.uniform(-self.scale, self.scale))
        if self.jitter_m > 0:
            noise = rng.standard_normal(tuple(xyz.shape), dtype=np.float32) * self.jitter_m
            xyz = xyz + torch.from_numpy(noise).to(xyz.dtype)
        if self.shift:
            xyz = xyz + torch.from_numpy(rng.random(3)).to(xyz.dtype)
        return xyz

    def inputs(
        self,
        inputs: Float[Tensor, "N Ci"],
        rng: np.random.Generator,
        columns: Mapping[str, slice] | None = None,
    ) -> Float[Tensor, "N Ci"]:
        """Vary the input channels of one crop; `columns` says which of them are what."""
        if self.input_jitter > 0:
            gain, offset = rng.standard_normal((2, inputs.shape[1]), dtype=np.float32)
            gain = torch.from_numpy(1.0 + self.input_jitter * gain)
            inputs = inputs * gain + torch.from_numpy(self.input_jitter * offset)
        for name, probability in (("rgb", self.drop_colour), ("normals", self.drop_normals)):
            if probability > 0 and columns and name in columns and rng.random() < probability:
                inputs = inputs.clone()
                inputs[:, columns[name]] = 0.0
        return inputs

    def _turns(self, rng: np.random.Generator) -> list[tuple[float, int]]:
        up = "xyz".index(self.up[-1])
        limits = [(self.rotate_rad, up), *((self.tilt_rad, (up + i) % 3) for i in (1, 2))]
        return [(rng.uniform(-limit, limit), axis) for limit, axis in limits if limit > 0]

    def _mirror(self, rng: np.random.Generator) -> Tensor:
        sign = torch.where(torch.from_numpy(rng.random(3)) < self.flip, -1.0, 1.0)
        sign["xyz".index(self.up[-1])] = 1.0
        return sign


def nearest(xyz: Float[Tensor, "N 3"], centre: Float[Tensor, " 3"], num: int) -> Int[Tensor, " K"]:
    """Rows of the `num` points nearest to `centre`, in ascending order (all when there are fewer).

    A ball of a fixed number of points keeps the cost of a step the same in sparse and dense places.
    """
    if len(xyz) <= num:
        return torch.arange(len(xyz))
    distance = (xyz - centre).square().sum(dim=1)
    return distance.topk(num, largest=False, sorted=False).indices.sort().values


def _turn(angle_rad: float, axis: int) -> Tensor:
    c, s = math.cos(angle_rad), math.sin(angle_rad)
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrix = torch.eye(3)
    matrix[first, first], matrix[second, second] = c, c
    matrix[first, second], matrix[second, first] = -s, s
    return matrix
