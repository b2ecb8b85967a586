"""What the pictures of a film tell of motion: how the camera turns, and how much moves.

Plain torch on small grey frames; enough to compare a film with a gyroscope or with a sound.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

# Levels are halved until the shorter side would fall below this; steps on each level.
_SMALLEST_SIDE, _STEPS = 16, 3
# Pairs of frames that are worked on together: bounds memory for long films.
_PAIRS = 64
# Tukey's constant for 95 % efficiency, in standard deviations; what is beyond does not count.
_TUKEY = 4.685


def camera_turn(frames: Float[Tensor, "N H W"], focal_px: float) -> Float[Tensor, "N1 3"]:
    """How the camera turned from each frame to the next, as rotation vectors.

    The whole picture is aligned with the next one under a rotation about the camera's centre, from
    coarse to fine, by Gauss-Newton steps in which pixels that do not fit (things that move, things
    that are near) lose their weight.

    Args:
        frames: Grey pictures; any scale of brightness.
        focal_px: Focal length in pixels of these frames. A wrong one scales the result.

    Returns:
        N - 1 vectors in the camera's frame (x right, y down, z forward), radians from frame k to
        frame k + 1: the mean rate of turn between their times is this over the time between them.

    Raises:
        ValueError: If the focal length is not positive or frames are smaller than 16 pixels.
    """
    if focal_px <= 0 or min(frames.shape[1:]) < _SMALLEST_SIDE:
        raise ValueError(
            f"need focal_px > 0 and frames of {_SMALLEST_SIDE} pixels or more, got {focal_px:g} "
            f"and {list(frames.shape[1:])}"
        )
    parts = [
        _turn(frames[k : k + _PAIRS], frames[k + 1 : k + _PAIRS + 1], focal_px)
        for k in range(0, len(frames) - 1, _PAIRS)
    ]
    return torch.cat([frames.new_zeros(0, 3), *parts])


def flow_motion(frames: Float[Tensor, "N H W"]) -> Float[Tensor, " N1"]:
    """How fast the picture moves from each frame to the next, pixels per frame.

    The mean over pixels of the speed along the local slope of brightness (normal flow): the change
    of a pixel over its slope. It needs no match, so it is right for small motions and grows with
    large ones. The N - 1 values belong to the middle between two frames.

    Args:
        frames: Grey pictures; any scale of brightness.

    Raises:
        ValueError: If frames are smaller than 3 pixels.
    """
    if min(frames.shape[1:]) < 3:
        raise ValueError(f"frames need 3 pixels or more each way, got {list(frames.shape[1:])}")
    speeds: list[Tensor] = []
    for k in range(0, len(frames) - 1, _PAIRS):
        pair = frames[k : k + _PAIRS + 1]
        middle = (pair[1:] + pair[:-1]) / 2
        slope_x, slope_y = _slopes(middle)
        square = slope_x.square() + slope_y.square()
        change = (pair[1:] - pair[:-1]).abs()
        # Flat places say nothing: sums of both, so that they weigh by their slope.
        total = (change * square.sqrt()).sum((1, 2))
        speeds.append(total / square.sum((1, 2)).clamp_min(1e-12))
    return torch.cat([frames.new_zeros(0), *speeds])


def grey(rgb: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N H W"]:
    """Brightness of colour frames (Rec. 601), on their scale."""
    return (rgb * rgb.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1)


def _turn(first: Tensor, second: Tensor, focal_px: float) -> Tensor:
    """Rotation vectors between pairs of frames."""
    levels = [(first[: len(second)], second, focal_px)]
    while min(levels[-1][0].shape[1:]) >= 2 * _SMALLEST_SIDE:
        a, b, focal = levels[-1]
        levels.append((_halved(a), _halved(b), focal / 2))
    turn = second.new_zeros(len(second), 3)
    for a, b, focal in reversed(levels):
        for _ in range(_STEPS):
            turn = turn + _step(a, b, focal, turn)
    return turn


def _step(first: Tensor, second: Tensor, focal_px: float, turn: Tensor) -> Tensor:
    """One Gauss-Newton step of the rotation that takes `first` to `second`."""
    _, height, width = first.shape
    x = (torch.arange(width, device=first.device, dtype=first.dtype) + 0.5 - width / 2) / focal_px
    y = (torch.arange(height, device=first.device, dtype=first.dtype) + 0.5 - height / 2) / focal_px
    y, x = torch.meshgrid(y, x, indexing="ij")
    rays = torch.stack([x, y, torch.ones_like(x)], -1)
    R = torch.linalg.matrix_exp(_cross_matrix(turn))
    turned = rays.reshape(1, -1, 3) @ R  # R.T applied to each ray
    place = turned[..., :2] / turned[..., 2:].clamp_min(1e-3)
    scale = first.new_tensor([2 * focal_px / width, 2 * focal_px / height])
    sampling = (place * scale).reshape(len(first), height, width, 2)
    seen = functional.grid_sample(second[:, None], sampling, align_corners=False)[:, 0]
    inside = (sampling.abs() < 1 - 2 / min(height, width)).all(-1)
    slope_x, slope_y = _slopes(seen)
    J = focal_px * torch.stack(
        [
            slope_x * x * y + slope_y * (1 + y * y),
            -slope_x * (1 + x * x) - slope_y * x * y,
            slope_x * y - slope_y * x,
        ],
        -1,
    ).flatten(1, 2)
    residual = (seen - first).flatten(1)
    weight = _tukey(residual, inside.flatten(1))
    normal = J.transpose(1, 2) @ (J * weight[..., None])
    # A picture without slopes cannot tell: a little damping gives no turn there.
    ridge = 1e-6 * normal.diagonal(dim1=1, dim2=2).sum(1) + 1e-12
    normal = normal + ridge[:, None, None] * torch.eye(3, device=first.device, dtype=first.dtype)
    right = J.transpose(1, 2) @ (weight * residual)[..., None]
    return -torch.linalg.solve(normal, right)[..., 0]


def _tukey(residual: Tensor, inside: Tensor) -> Tensor:
    """Weights of pixels by how well they fit: 1 for a perfect fit, 0 for what is far off."""
    spread = residual.abs().masked_fill(~inside, torch.nan).nanmedian(1, keepdim=True).values
    limit = (_TUKEY * 1.4826 * spread).nan_to_num(0.0).clamp_min(1e-12)
    return (1 - (residual / limit).square()).clamp_min(0).square() * inside


def _slopes(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences along x and y; zero on the border."""
    slope_x = functional.pad((frames[:, :, 2:] - frames[:, :, :-2]) / 2, (1, 1))
    slope_y = functional.pad((frames[:, 2:] - frames[:, :-2]) / 2, (0, 0, 1, 1))
    return slope_x, slope_y


def _halved(frames: Tensor) -> Tensor:
    """Half the size; an odd last row or column is left out."""
    return functional.avg_pool2d(frames[:, None], 2)[:, 0]


def _cross_matrix(vectors: Tensor) -> Tensor:
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(-1, 3, 3)
