"""How far a rendered image is from a photo: L1, SSIM, PSNR, and L1 of depth."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import conv2d

# The window of Wang et al., as every paper on splats uses it.
_RADIUS = 5
_SIGMA_PX = 1.5
# Stabilisers for images in [0, 1].
_C1, _C2 = 0.01**2, 0.03**2


def ssim_map(
    first: Float[Tensor, "C H W"], second: Float[Tensor, "C H W"]
) -> Float[Tensor, "C H W"]:
    """Structural similarity around every pixel, 1 where the images are alike.

    Statistics are taken under an 11 x 11 Gaussian window of 1.5 pixels; what lies outside the image
    counts as black in both. Symmetric in the images, differentiable in both.

    Args:
        first: Colours in [0, 1].
        second: The other image.

    Raises:
        ValueError: If the shapes differ.

    Source:
        Wang et al., Image quality assessment: from error visibility to structural similarity,
        IEEE Transactions on Image Processing, 2004.
    """
    _check_images(first, second)
    channels = first.shape[0]
    parts = torch.cat((first, second, first * first, second * second, first * second))
    means = _blur(parts).split(channels)
    mean_1, mean_2, square_1, square_2, product = means
    mean_11, mean_22, mean_12 = mean_1 * mean_1, mean_2 * mean_2, mean_1 * mean_2
    spread = square_1 + square_2 - (mean_11 + mean_22)
    upper = (2 * mean_12 + _C1) * (2 * (product - mean_12) + _C2)
    return upper / ((mean_11 + mean_22 + _C1) * (spread + _C2))


def ssim(
    first: Float[Tensor, "C H W"],
    second: Float[Tensor, "C H W"],
    valid: Bool[Tensor, "H W"] | None = None,
) -> Float[Tensor, ""]:
    """Mean structural similarity, at most 1.

    Args:
        first: Colours in [0, 1].
        second: The other image.
        valid: Pixels that count. The others are black in both images, as is what lies outside.

    Raises:
        ValueError: If the shapes differ or no pixel is valid.
    """
    if valid is None:
        return ssim_map(first, second).mean()
    _check_valid(first, valid)
    return _mean(ssim_map(first * valid, second * valid), valid)


def l1(
    first: Float[Tensor, "C H W"],
    second: Float[Tensor, "C H W"],
    valid: Bool[Tensor, "H W"] | None = None,
) -> Float[Tensor, ""]:
    """Mean absolute difference of the colours of the valid pixels.

    Raises:
        ValueError: If the shapes differ or no pixel is valid.
    """
    _check_images(first, second)
    return _mean((first - second).abs(), valid)


def psnr(
    first: Float[Tensor, "C H W"],
    second: Float[Tensor, "C H W"],
    valid: Bool[Tensor, "H W"] | None = None,
) -> Float[Tensor, ""]:
    """Peak signal-to-noise ratio in dB for colours in [0, 1]; infinite for equal images.

    Raises:
        ValueError: If the shapes differ or no pixel is valid.
    """
    _check_images(first, second)
    return -10 * torch.log10(_mean((first - second).square(), valid))


def photo_loss(
    rendered: Float[Tensor, "C H W"],
    photo: Float[Tensor, "C H W"],
    *,
    dssim: float = 0.2,
    valid: Bool[Tensor, "H W"] | None = None,
) -> Float[Tensor, ""]:
    """(1 - dssim) L1 + dssim (1 - SSIM), the loss of 3D Gaussian splatting.

    Args:
        rendered: Colours of the splats.
        photo: Colours of the photo, in [0, 1].
        dssim: Share of the structural part, in [0, 1].
        valid: Pixels that count.

    Raises:
        ValueError: If the shapes differ, no pixel is valid, or `dssim` is no share.

    Source:
        Kerbl et al., 3D Gaussian Splatting for Real-Time Radiance Field Rendering, SIGGRAPH 2023,
        equation 7.
    """
    if not 0 <= dssim <= 1:
        raise ValueError(f"dssim must be a share in [0, 1], got {dssim}")
    loss = (1 - dssim) * l1(rendered, photo, valid)
    if dssim == 0:
        return loss
    return loss + dssim * (1 - ssim(rendered, photo, valid))


def depth_l1(
    rendered_m: Float[Tensor, "H W"],
    depth_m: Float[Tensor, "H W"],
    valid: Bool[Tensor, "H W"] | None = None,
) -> Float[Tensor, ""]:
    """Mean absolute error of depth in metres where both images have one; 0 where none has.

    Args:
        rendered_m: z-depth of the splats, 0 where nothing was drawn.
        depth_m: Readings, 0 or non-finite where there is none.
        valid: Pixels that count; all by default.

    Raises:
        ValueError: If the shapes differ.
    """
    if rendered_m.shape != depth_m.shape:
        raise ValueError(
            f"depth images must be equally large, got {list(rendered_m.shape)} and "
            f"{list(depth_m.shape)}"
        )
    both = (rendered_m > 0) & depth_m.isfinite() & (depth_m > 0)
    if valid is not None:
        both = both & valid
    # Clean before any arithmetic: NaN times zero would still be NaN, also in the gradient.
    error = rendered_m - depth_m.where(both, torch.zeros_like(depth_m))
    return (error.abs() * both).sum() / both.sum().clamp(min=1)


def _blur(images: Tensor) -> Tensor:
    """Means of each channel under the window, zeros outside. One pass a direction."""
    channels = images.shape[0]
    tap = [math.exp(-(i**2) / (2 * _SIGMA_PX**2)) for i in range(-_RADIUS, _RADIUS + 1)]
    window = images.new_tensor([t / sum(tap) for t in tap])
    down = window.view(1, 1, -1, 1).expand(channels, -1, -1, -1)
    across = window.view(1, 1, 1, -1).expand(channels, -1, -1, -1)
    once = conv2d(images[None], down, padding=(_RADIUS, 0), groups=channels)
    return conv2d(once, across, padding=(0, _RADIUS), groups=channels)[0]


def _mean(values: Tensor, valid: Tensor | None) -> Tensor:
    if valid is None:
        return values.mean()
    _check_valid(values, valid)
    return (values * valid).sum() / (valid.sum() * values.shape[0])


def _check_images(first: Tensor, second: Tensor) -> None:
    if first.ndim != 3 or first.shape != second.shape or first.numel() == 0:
        raise ValueError(
            "images must have one shape [C, H, W] of at least a pixel, got "
            f"{list(first.shape)} and {list(second.shape)}"
        )


def _check_valid(image: Tensor, valid: Tensor) -> None:
    if valid.shape != image.shape[-2:]:
        raise ValueError(
            f"valid must have the size of the image, {list(image.shape[-2:])}, got "
            f"{list(valid.shape)}"
        )
    if not bool(valid.any()):
        raise ValueError("valid must keep at least one pixel, got none")
