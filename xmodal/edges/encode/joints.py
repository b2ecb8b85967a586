"""Skeletons as networks are shown them: which joints hang on which, and what each brings."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Layout = Literal["kinect20", "kinect25", "coco17"]

# For each joint the joint that it hangs on; the middle of the body hangs on itself.
PARENTS: Mapping[Layout, tuple[int, ...]] = MappingProxyType(
    {
        # head, neck, spine, hip; left arm, right arm, left leg, right leg from the body outwards
        "kinect20": (1, 2, 3, 3, 1, 4, 5, 6, 1, 8, 9, 10, 3, 12, 13, 14, 3, 16, 17, 18),
        # NTU RGB+D's order, numbered from 0
        "kinect25": (
            0, 0, 20, 2, 20, 4, 5, 6, 20, 8, 9, 10, 0,
            12, 13, 14, 0, 16, 17, 18, 1, 7, 7, 11, 11,
        ),
        # nose, eyes, ears, then left and right by turns; COCO has no hip: the left one stands in
        "coco17": (5, 0, 0, 1, 2, 11, 5, 5, 6, 7, 8, 11, 11, 11, 12, 13, 14),
    }
)  # fmt: skip


def root_of(parents: tuple[int, ...]) -> int:
    """The joint that hangs on itself."""
    return next(joint for joint, parent in enumerate(parents) if joint == parent)


def filled(joints_m: Tensor) -> tuple[Tensor, Tensor]:
    """Joints over time with the times between two tracked ones filled in, and which were tracked.

    Each joint goes straight from where it was seen last to where it is seen next; before the first
    and after the last time it stays where it was. A joint that is never tracked stays at zero.

    Args:
        joints_m: [N, J, 3]; NaN where a joint is not tracked.

    Returns:
        The same without NaN, and marks [N, J].
    """
    import torch

    tracked = torch.isfinite(joints_m).all(dim=2)
    clean = torch.where(tracked[:, :, None], joints_m, 0.0)
    if bool(tracked.all()):
        return clean, tracked
    frame = torch.arange(len(joints_m))[:, None].expand(tracked.shape)
    before = torch.where(tracked, frame, -1).cummax(dim=0).values
    after = torch.where(tracked, frame, len(joints_m)).flip(0).cummin(dim=0).values.flip(0)
    known = (before >= 0) | (after < len(joints_m))
    low = torch.where(before >= 0, before, after).clamp_max(len(joints_m) - 1)
    high = torch.where(after < len(joints_m), after, before).clamp_min(0)
    share = (frame - low).clamp_min(0) / (high - low).clamp_min(1)
    share = share.clamp_max(1.0).to(clean.dtype)[:, :, None]
    from_low = clean.gather(0, low[:, :, None].expand_as(clean))
    from_high = clean.gather(0, high[:, :, None].expand_as(clean))
    return torch.where(known[:, :, None], from_low + (from_high - from_low) * share, 0.0), tracked


def joint_features(
    joints_m: Tensor, tracked: Tensor, parents: tuple[int, ...], rate_hz: float
) -> Tensor:
    """What each joint brings in each frame: [10, J, T].

    Place from the hip, bone from the parent and velocity, three each, in units of the body's mean
    bone so that small and tall people are alike; and 1 where it is tracked.

    Args:
        joints_m: Places, [T, J, 3], without NaN.
        tracked: Which of them count, [T, J].
        parents: The joint that each hangs on.
        rate_hz: Frames per second.
    """
    import torch

    hangs_on = torch.tensor(parents)
    root = root_of(parents)
    place = joints_m - joints_m[:, root : root + 1]
    bone = joints_m - joints_m[:, hangs_on]
    long_m = bone.norm(dim=2)
    real = tracked & tracked[:, hangs_on] & (hangs_on != torch.arange(len(parents)))
    mean_m = (long_m * real).sum() / real.sum().clamp_min(1)
    # A skeleton of one point, or nothing tracked at all, has no size of its own.
    unit_m = torch.where(mean_m > 1e-6, mean_m, torch.ones_like(mean_m))
    velocity = torch.zeros_like(place)
    # Metres in a tenth of a second: about as large as places are.
    both = (tracked[1:] & tracked[:-1])[:, :, None]
    velocity[1:] = (joints_m[1:] - joints_m[:-1]) * both * (rate_hz / 10.0)
    whole = torch.cat([place, bone, velocity], dim=2) / unit_m
    marked = torch.cat([whole * tracked[:, :, None], tracked[:, :, None].to(whole.dtype)], dim=2)
    return marked.permute(2, 1, 0)
