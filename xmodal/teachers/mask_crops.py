"""Square crops of masked objects, as an image classifier wants them."""

from __future__ import annotations

import numpy as np
import PIL.Image
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

# EfficientNet-Lite subtracts 127: this grey is the network's zero, it says nothing.
GREY = (127, 127, 127)
# A smaller square would be enlarged beyond all meaning.
_LEAST_SIDE = 24.0
_BILINEAR = PIL.Image.Resampling.BILINEAR


def mask_crops(
    rgb: Float[Tensor, "3 H W"],
    logits: Float[Tensor, "M h w"],
    *,
    scales: tuple[float, ...],
    side: int,
    fill: tuple[int, int, int] = GREY,
) -> UInt8[Tensor, "K side side 3"]:
    """Crop each mask at several scales; outside the mask and the image is one colour.

    Args:
        rgb: The image, in [0, 1].
        logits: Mask logits over a grid that covers the image; no mask may be empty.
        scales: Side of the square as multiples of the mask's longer side.
        side: Side of the crops, pixels.
        fill: The colour outside, one that means nothing to the network.

    Returns:
        `M * len(scales)` crops, the scales of a mask beside each other.
    """
    pixels = (rgb.permute(1, 2, 0) * 255).round().clamp(0, 255).to(torch.uint8).numpy()
    crops = [
        crop for mask in logits for crop in _crops_of(pixels, mask.numpy(), scales, side, fill)
    ]
    stacked = np.stack(crops) if crops else np.zeros((0, side, side, 3), np.uint8)
    return torch.from_numpy(stacked)


def _crops_of(
    pixels: NDArray[np.uint8],
    logits: NDArray[np.float32],
    scales: tuple[float, ...],
    side: int,
    fill: tuple[int, int, int],
) -> list[NDArray[np.uint8]]:
    step_y, step_x = pixels.shape[0] / logits.shape[0], pixels.shape[1] / logits.shape[1]
    rows, columns = np.nonzero((logits > 0).any(axis=1))[0], np.nonzero((logits > 0).any(axis=0))[0]
    y0, y1 = rows[0] * step_y, (rows[-1] + 1) * step_y
    x0, x1 = columns[0] * step_x, (columns[-1] + 1) * step_x
    extent = max(y1 - y0, x1 - x0)
    sides = [max(extent * scale, _LEAST_SIDE) for scale in scales]
    centre = ((x0 + x1) / 2, (y0 + y1) / 2)
    canvas, origin = _canvas(pixels, logits, centre, max(sides), fill)
    crops: list[NDArray[np.uint8]] = []
    for length in sides:
        left, top = centre[0] - length / 2 - origin[0], centre[1] - length / 2 - origin[1]
        box = (left, top, left + length, top + length)
        crops.append(np.asarray(canvas.resize((side, side), _BILINEAR, box=box)))
    return crops


def _canvas(
    pixels: NDArray[np.uint8],
    logits: NDArray[np.float32],
    centre: tuple[float, float],
    length: float,
    fill: tuple[int, int, int],
) -> tuple[PIL.Image.Image, tuple[int, int]]:
    """A plain square of whole pixels around `centre`, with the masked part of the image pasted in.

    Returns:
        The canvas, and the image coordinates (x, y) of its top left corner.
    """
    height, width = pixels.shape[:2]
    # One pixel of margin on each side keeps the resampling boxes inside the canvas.
    left, top = (int(np.floor(c - length / 2)) - 1 for c in centre)
    span = int(np.ceil(length)) + 3
    canvas = PIL.Image.new("RGB", (span, span), fill)
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + span, width), min(top + span, height)
    part = PIL.Image.fromarray(pixels[y0:y1, x0:x1])
    at = (x0 - left, y0 - top)
    scale_y, scale_x = logits.shape[0] / height, logits.shape[1] / width
    box = (x0 * scale_x, y0 * scale_y, x1 * scale_x, y1 * scale_y)
    # The mask's edge is drawn at the image's resolution, from the interpolated logits.
    fine = PIL.Image.fromarray(logits).resize((x1 - x0, y1 - y0), _BILINEAR, box=box)
    canvas.paste(part, at, PIL.Image.fromarray(((np.asarray(fine) > 0) * 255).astype(np.uint8)))
    return canvas, (left, top)
