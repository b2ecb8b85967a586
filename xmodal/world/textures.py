"""Textures computed from noise and simple drawings; float arrays in [0, 255] until `finish`.

Patterns stay low in frequency: a renderer without mip-maps turns fine grain into flicker between
views, which a 2D network reads as texture that is not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from xmodal.world.meshes import Number, Reals, Vector, directions

Bytes: TypeAlias = NDArray[np.uint8]
Colour: TypeAlias = Vector

HEIGHT, WIDTH = 512, 1024


def plain(colour: Colour) -> UInt8[Bytes, "8 8 3"]:
    """One colour all over."""
    return finish(np.broadcast_to(np.asarray(colour, float), (8, 8, 3)))


def finish(texture: Float[Reals, "H W 3"]) -> UInt8[Bytes, "H W 3"]:
    """Clip and round to bytes."""
    return np.clip(np.round(texture), 0, 255).astype(np.uint8)


def noise(
    scales: Sequence[int] = (4, 8, 16, 32, 64),
    *,
    seed: int,
    height: int = HEIGHT,
    width: int = WIDTH,
    stretch: Number = 2,
) -> Float[Reals, "H W"]:
    """Sum of smooth random fields, unit variance, seamless from left to right.

    Args:
        scales: Cells along the height of each field; a field of s cells weighs 1 / sqrt(s).
        seed: Seed.
        height: Texture height.
        width: Texture width.
        stretch: Cells along the width for each along the height.
    """
    random = np.random.default_rng(seed)
    total = np.zeros((height, width))
    for scale in scales:
        columns = max(1, round(scale * stretch))
        cells = random.standard_normal((scale, columns)).astype(np.float32)
        # Three copies side by side, the middle one kept: resampling then wraps around.
        field = Image.fromarray(np.tile(cells, (1, 3)))
        wide = np.asarray(field.resize((3 * width, height), Image.Resampling.BICUBIC), float)
        total += wide[:, width : 2 * width] / np.sqrt(scale)
    return total / total.std()


def speckle(*, seed: int, height: int = HEIGHT, width: int = WIDTH) -> Float[Reals, "H W"]:
    """Independent unit-variance noise for each texel."""
    return np.random.default_rng(seed).standard_normal((height, width))


def tinted(
    colour: Colour, field: Float[Reals, "H W"], strength: Number | Colour
) -> Float[Reals, "H W 3"]:
    """A colour varied by a noise field, by `strength` grey levels (one, or one a channel)."""
    return np.asarray(colour, float) + field[..., None] * np.asarray(strength, float)


def globe(height: int = HEIGHT, width: int = WIDTH) -> Float[Reals, "H W 3"]:
    """The unit direction that each texel of an equirectangular map stands for."""
    return directions(np.linspace(np.pi / 2, -np.pi / 2, height), np.linspace(0, 2 * np.pi, width))


def rise(height: int = HEIGHT, width: int = WIDTH) -> Float[Reals, "H W"]:
    """The v coordinate of each texel: 1 in the top row, 0 in the bottom row."""
    return np.repeat(np.linspace(1, 0, height)[:, None], width, axis=1)


def picture(texture: Float[Reals, "H W 3"]) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Open a texture for drawing with PIL."""
    image = Image.fromarray(finish(texture))
    return image, ImageDraw.Draw(image)


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """PIL's built-in font: no file of ours or the system's."""
    return ImageFont.load_default(size)


def wood(
    *, seed: int, colour: Colour = (150, 105, 65), planks: int = 5, side: int = 1024
) -> UInt8[Bytes, "S S 3"]:
    """Planks along the vertical: grain stretched, each plank its own shade, dark joints."""
    random = np.random.default_rng(seed)

    def grain(across: int, along: int, part: int) -> Reals:
        return noise(
            (along,), seed=seed * 7 + part, height=side, width=side, stretch=across / along
        )

    # Cells across x along: fine streaks over broad ones.
    streaks = 0.5 * grain(40, 3, 1) + 0.45 * grain(160, 6, 2) + 0.25 * grain(320, 10, 3)
    x = np.linspace(0, planks, side, endpoint=False)
    shade = random.normal(0, 0.5, planks)[x.astype(int)]
    value = 1 + 0.07 * streaks + 0.10 * shade
    value[:, (x % 1) < 0.006 * planks] *= 0.6
    return finish(np.asarray(colour, float) * value[..., None])


def tiles(
    *, seed: int, colour: Colour = (188, 182, 172), count: int = 2, side: int = 512
) -> UInt8[Bytes, "S S 3"]:
    """Square tiles with grout lines."""
    random = np.random.default_rng(seed)
    at = np.linspace(0, count, side, endpoint=False)
    cell = at.astype(int)
    shade = random.normal(0, 4, (count, count))[cell[:, None], cell[None, :]]
    cloudy = noise((4, 8, 16), seed=seed + 1, height=side, width=side, stretch=1)
    texture = tinted(colour, shade + 3 * cloudy, 1.0)
    joint = (at % 1) < 0.02
    texture[joint, :] = texture[:, joint] = np.asarray(colour, float) * 0.72
    return finish(texture)


def plaster(
    *, seed: int, colour: Colour = (214, 208, 196), stripes: int = 0, side: int = 512
) -> UInt8[Bytes, "S S 3"]:
    """Painted wall, faintly clouded; `stripes` pairs of vertical bands, 0 for none."""
    texture = tinted(colour, noise((3, 6, 12), seed=seed, height=side, width=side, stretch=1), 1.5)
    if stripes:
        band = (np.linspace(0, stripes, side, endpoint=False) % 1) < 0.5
        texture[:, band] *= 0.965
    return finish(texture)


def carpet(
    *, seed: int, colour: Colour = (110, 116, 128), side: int = 512
) -> UInt8[Bytes, "S S 3"]:
    """Short pile: clouded, with a soft grain."""
    field = noise((8, 32, 96), seed=seed, height=side, width=side, stretch=1)
    return finish(tinted(colour, field, 6.0))
