"""Random changes of motion and sound that leave their meaning as it is.

Motion is `[B, C, N]`: recordings, channels, time, as networks take it. Each recording gets its own
change. All randomness comes from the generator, so a run can be repeated.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def rotate(
    vectors: Float[Tensor, "B C N"],
    *,
    generator: torch.Generator,
    max_rad: float = math.pi,
    about: Literal["any", "z"] = "any",
) -> Float[Tensor, "B C N"]:
    """Turn each recording as if the sensor had been worn another way.

    Args:
        vectors: Channels are x, y, z of one vector after another (acceleration and rate of turn,
            or joints), all in one frame; they turn together.
        generator: Where chance comes from.
        max_rad: Largest angle; it is drawn evenly up to here.
        about: Axis: `any`, drawn evenly over the sphere, or `z`, for readings that
            `align_gravity` has put upright.

    Raises:
        ValueError: If the channels are no whole number of vectors.
    """
    batch, channels, num = vectors.shape
    if channels % 3:
        raise ValueError(f"vectors to rotate need a multiple of 3 channels, got {channels}")
    axis = _normal((batch, 3), vectors, generator)
    if about == "z":
        axis = axis * vectors.new_tensor([0.0, 0.0, 1.0])
    axis = axis / torch.linalg.vector_norm(axis, dim=1, keepdim=True).clamp_min(1e-12)
    angle = _uniform((batch, 1), vectors, generator) * max_rad
    R = torch.linalg.matrix_exp(_cross_matrix(axis * angle))
    split = vectors.reshape(batch, channels // 3, 3, num)
    return (R[:, None] @ split).reshape(batch, channels, num)


def scale(
    values: Float[Tensor, "B C N"], *, generator: torch.Generator, max_share: float = 0.1
) -> Float[Tensor, "B C N"]:
    """Multiply each channel of each recording by a factor of its own.

    Args:
        values: Readings.
        generator: Where chance comes from.
        max_share: The factor is drawn evenly from `1 - max_share` to `1 + max_share`.
    """
    batch, channels, _ = values.shape
    drawn = 2 * _uniform((batch, channels, 1), values, generator) - 1
    return values * (1 + max_share * drawn)


def jitter(
    values: Float[Tensor, "B C N"], *, generator: torch.Generator, std: float
) -> Float[Tensor, "B C N"]:
    """Add white noise of standard deviation `std`, in the unit of the values."""
    return values + std * _normal(tuple(values.shape), values, generator)


def time_warp(
    values: Float[Tensor, "B C N"],
    *,
    generator: torch.Generator,
    max_share: float = 0.2,
    num_knots: int = 4,
) -> Float[Tensor, "B C N"]:
    """Run through each recording faster here and slower there; its ends stay where they are.

    Args:
        values: Readings, equally spaced.
        generator: Where chance comes from.
        max_share: Speeds at the knots are drawn evenly from `1 - max_share` to `1 + max_share`.
        num_knots: Places between which the speed changes evenly.

    Raises:
        ValueError: If there are fewer than two knots, or time could stand still.
    """
    if num_knots < 2 or not 0 <= max_share < 1:
        raise ValueError(
            "a warp of time needs two knots or more and a share from 0 to below 1, got "
            f"{num_knots} and {max_share:g}"
        )
    batch, channels, num = values.shape
    if num < 2:
        return values
    speed = 1 + max_share * (2 * _uniform((batch, 1, num_knots), values, generator) - 1)
    steps = functional.interpolate(speed, size=num - 1, mode="linear", align_corners=True)[:, 0]
    place = functional.pad(steps.cumsum(1), (1, 0))
    place = place / place[:, -1:] * (num - 1)
    left = place.floor().clamp(0, num - 2).to(torch.int64)
    share = (place - left)[:, None]
    index = left[:, None].expand(batch, channels, num)
    return (1 - share) * values.gather(2, index) + share * values.gather(2, index + 1)


def mask_spectrogram(
    maps: Float[Tensor, "B M T"],
    *,
    generator: torch.Generator,
    max_mels: int = 8,
    max_frames: int = 20,
    num: int = 2,
    value: float | None = None,
) -> Float[Tensor, "B M T"]:
    """Hide bands of frequencies and stretches of time (SpecAugment, without its warp).

    Args:
        maps: Log-mel maps.
        generator: Where chance comes from.
        max_mels: Widest band; widths are drawn evenly from 0 to it.
        max_frames: Longest stretch.
        num: Bands, and stretches, in each map.
        value: What hidden cells hold; the mean of the map if not given.

    Raises:
        ValueError: If a width is negative.

    Source:
        Park et al., SpecAugment, Interspeech 2019.
    """
    if max_mels < 0 or max_frames < 0:
        raise ValueError(f"widths of masks must be 0 or more, got {max_mels} and {max_frames}")
    batch, mels, frames = maps.shape
    hidden = torch.zeros_like(maps, dtype=torch.bool)
    for _ in range(num):
        hidden |= _bands(mels, max_mels, batch, generator).to(maps.device)[:, :, None]
        hidden |= _bands(frames, max_frames, batch, generator).to(maps.device)[:, None, :]
    fill = maps.mean((1, 2), keepdim=True) if value is None else torch.full_like(maps, value)
    return torch.where(hidden, fill, maps)


def _bands(size: int, widest: int, batch: int, generator: torch.Generator) -> Tensor:
    """One band of random width and place for each recording: [B, size], True inside."""
    draw = torch.rand(2, batch, 1, generator=generator, device=generator.device)
    width = (draw[0] * (min(widest, size) + 1)).floor()
    start = (draw[1] * (size - width + 1)).floor()
    place = torch.arange(size, device=generator.device)
    return (place >= start) & (place < start + width)


def _normal(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    # Drawn where the generator lives: the same numbers on every device.
    drawn = torch.randn(shape, generator=generator, dtype=like.dtype, device=generator.device)
    return drawn.to(like.device)


def _uniform(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.rand(shape, generator=generator, dtype=like.dtype, device=generator.device)
    return drawn.to(like.device)


def _cross_matrix(vectors: Tensor) -> Tensor:
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(-1, 3, 3)
