"""Skeletons: joints mixed along the bones in every frame, then convolutions over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from detectors.clip_student import ClipSize, ClipTrunk, Seen, mean_and_max
from detectors.temporal import Stage, TemporalTrunk

# Place from the hip, bone from the parent, velocity: three each; and 1 where tracked.
JOINT_FEATURES = 10

# Width of a joint, and the blocks over time.
_SIZES: Mapping[ClipSize, tuple[int, tuple[Stage, ...]]] = MappingProxyType(
    {
        "micro": (12, (Stage(32), Stage(64, 2), Stage(64, 2, 2))),
        "tiny": (16, (Stage(64), Stage(96, 2), Stage(128, 2), Stage(128, 1, 2))),
        "small": (
            32,
            (Stage(128), Stage(160, 2), Stage(160, 1, 2), Stage(224, 2), Stage(224, 1, 2)),
        ),
        "base": (
            48,
            (Stage(192), Stage(256, 2), Stage(256, 1, 2), Stage(384, 2), Stage(384, 1, 2)),
        ),
    }
)


class SkeletonNet(ClipTrunk):
    """Joints of one person over time.

    Two layers mix each joint with its neighbours along the bones (with learnt strengths); then all
    joints of a frame are one row, and residual convolutions run over time.

    Args:
        parents: For each joint the joint that it hangs on; the hip hangs on itself.
        num_frames: Frames of a window.
        size: Preset.

    Raises:
        ValueError: If there are no joints or frames, or a parent is no joint.

    Source:
        Mixing along bones: Yan et al., ST-GCN, AAAI 2018, section 3; learnt strengths: Shi et al.,
        2s-AGCN, CVPR 2019, section 4.1. Unlike both, frames are flattened before time is looked at,
        which costs a tenth.
    """

    def __init__(self, parents: Sequence[int], num_frames: int, size: ClipSize = "tiny") -> None:
        joints = len(parents)
        if min(joints, num_frames) < 1 or not all(0 <= p < joints for p in parents):
            msg = f"parents {tuple(parents)} of {joints} joints, {num_frames} frames: not a window"
            raise ValueError(msg)
        width, stages = _SIZES[size]
        super().__init__(
            width=2 * stages[-1].channels,
            map_channels=tuple(stage.channels for stage in stages),
            in_shape=(JOINT_FEATURES, joints, num_frames),
        )
        bones = _bones(parents)
        self.joints = nn.ModuleList(
            (_JointMixing(JOINT_FEATURES, width, bones), _JointMixing(width, width, bones))
        )
        self.frame = nn.Conv1d(width * joints, stages[0].channels, 1)
        self.over_time = TemporalTrunk(stages[0].channels, stages)

    def see(self, inputs: Float[Tensor, "B 10 J T"]) -> Seen:
        """Maps of every block over time, and rows: mean and maximum of the last."""
        tracked = inputs[:, -1:]
        x = inputs
        for layer in self.joints:
            x = layer(x) * tracked
        seen = tracked.amax(dim=2)
        maps, left = self.over_time(self.frame(x.flatten(1, 2)), seen)
        return Seen(tuple(maps), mean_and_max(maps[-1], left))


class _JointMixing(nn.Module):
    """Each joint sees itself and, through learnt strengths, the others; alike in every frame."""

    def __init__(self, in_channels: int, out_channels: int, bones: Tensor) -> None:
        super().__init__()
        self.strength = nn.Parameter(bones.clone())
        self.own = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.others = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Float[Tensor, "B Ci J T"]) -> Float[Tensor, "B Co J T"]:
        """The joints' rows."""
        return functional.gelu(self.norm(self.own(x) + self.others(self.strength @ x)))


def _bones(parents: Sequence[int]) -> Tensor:
    """Share of each neighbour in a joint: rows add up to 1, joints without one have zeros."""
    bones = torch.zeros(len(parents), len(parents))
    for joint, parent in enumerate(parents):
        if joint != parent:
            bones[joint, parent] = bones[parent, joint] = 1.0
    return bones / bones.sum(dim=1, keepdim=True).clamp_min(1.0)
