"""What a point student is told about each point, computed over the whole cloud.

Height is relative to the floor of the cloud, so it must be computed before the cloud is cropped.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from xmodal.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from xmodal.values import Points

PointInput = Literal["rgb", "normals", "height", "xyz"]
Up = Literal["x", "y", "z", "-x", "-y", "-z"]

# Halved from a flat down to a hand: what is finer, neighbours and colours tell.
_WAVELENGTHS_M = (16.0, 8.0, 4.0, 2.0, 1.0, 0.5, 0.25)
_WIDTHS: dict[PointInput, int] = {
    "rgb": 3,
    "normals": 1,
    "height": 1,
    "xyz": 6 * len(_WAVELENGTHS_M),
}
_AXES = "xyz"
# Lengths are given in units of about a room's half, so that inputs have about unit scale.
_ROOM_M = 1.5
# The floor is where the lowest points lie, less a few strays below it.
_FLOOR_QUANTILE = 0.01
_NORMAL_NEIGHBOURS = 16


def check_inputs(inputs: tuple[PointInput, ...]) -> None:
    """Refuse an empty or repeating list of inputs.

    Raises:
        ValueError: If `inputs` is empty or names one twice.
    """
    if not inputs or len(set(inputs)) != len(inputs):
        msg = f"inputs must name each of {', '.join(_WIDTHS)} at most once, and at least one"
        raise ValueError(msg)


def input_channels(inputs: tuple[PointInput, ...]) -> int:
    """Width of what `describe_points` gives for these inputs."""
    return sum(_WIDTHS[name] for name in inputs)


def input_columns(inputs: tuple[PointInput, ...]) -> dict[PointInput, slice]:
    """Which columns of what `describe_points` gives belong to each input."""
    columns: dict[PointInput, slice] = {}
    first = 0
    for name in inputs:
        columns[name] = slice(first, first + _WIDTHS[name])
        first += _WIDTHS[name]
    return columns


def describe_points(cloud: Points, inputs: tuple[PointInput, ...], up: Up) -> Tensor:
    """Input channels of every point, about unit scale.

    Args:
        cloud: The whole cloud, world frame. Normals are estimated when it has none.
        inputs: `rgb`: colour, centred. `normals`: how level the surface is, |normal . up|; a cloud
            from a file does not say which side is outside, so the sign is left out, and turning the
            room about `up` changes nothing. `height`: above the floor of its sample along `up`.
            `xyz`: place in the world frame, which lets a student learn one room by heart, parts of
            it too, and says nothing about another room.
        up: Axis of the world frame that points up.

    Raises:
        DataError: If the cloud has no colours and `rgb` is among the inputs.
    """
    import torch

    parts: list[Tensor] = []
    for name in inputs:
        if name == "rgb":
            parts.append(_colours(cloud))
        elif name == "normals":
            parts.append(_levelness(cloud, up))
        elif name == "height":
            parts.append(torch.cat([_height(xyz, up) for xyz in _samples(cloud)]))
        else:
            parts.append(_position(cloud.xyz))
    return torch.cat(parts, dim=1).float()


def _samples(cloud: Points) -> tuple[Tensor, ...]:
    return cloud.xyz.split(cloud.offsets.diff().tolist())


def _colours(cloud: Points) -> Tensor:
    if cloud.rgb is None:
        raise DataError(
            "point cloud",
            wanted="a colour for every point, which this student reads",
            got="a cloud without colours",
            fix="use a coloured cloud, or train a student with `inputs: [normals, height]`",
        )
    return (cloud.rgb - 0.5) * 2.0


def _levelness(cloud: Points, up: Up) -> Tensor:
    normals = cloud.normals
    if normals is None:
        from lifting.points import estimate_normals

        normals = estimate_normals(cloud.xyz, _NORMAL_NEIGHBOURS)
    return normals[:, [_AXES.index(up[-1])]].abs() * 2.0 - 1.0


def _height(xyz: Tensor, up: Up) -> Tensor:
    if len(xyz) == 0:
        return xyz[:, :1]
    height = xyz[:, [_AXES.index(up[-1])]] * (-1.0 if up.startswith("-") else 1.0)
    lowest = 1 + int(_FLOOR_QUANTILE * (len(height) - 1))
    return (height - height.kthvalue(lowest, dim=0).values) / _ROOM_M - 1.0


def _position(xyz: Tensor) -> Tensor:
    """Sines and cosines of world coordinates at falling wave-lengths.

    Source:
        Tancik et al., Fourier Features Let Networks Learn High Frequency Functions, NeurIPS 2020.
    """
    import torch

    place = xyz.double()  # so that far from the origin a millimetre is still a millimetre
    angles = torch.cat([place * (2.0 * math.pi / length) for length in _WAVELENGTHS_M], dim=1)
    return torch.cat([angles.sin(), angles.cos()], dim=1)
