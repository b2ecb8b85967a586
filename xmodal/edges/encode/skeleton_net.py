"""The op `skeleton_net`: a network over the joints of one person."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xmodal.edges.encode.clip_student import (
    Fit,
    check_positive,
    check_shares,
    clips_of,
    embedded,
    head_channels,
    hop_of,
    refuse_unordered,
    whole,
)
from xmodal.edges.encode.joints import PARENTS, Layout, filled, joint_features
from xmodal.edges.encode.time_windows import even_windows, unblended
from xmodal.errors import DataError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from detectors.clip_student import ClipStudent
    from xmodal.recordings.inputs import Clips
    from xmodal.values import Embedding, Skeleton


@dataclass(frozen=True, kw_only=True)
class SkeletonNetOp:
    """Joints mixed along the bones, then convolutions over time; one row for each recording.

    Attributes:
        size: `micro` (0.1 M weights), `tiny` (0.5 M), `small` (1.9 M) or `base` (4.9 M).
        layout: Which joints there are, in which order: `kinect20` (Kinect 1, UTD-MHAD), `kinect25`
            (Kinect 2, NTU RGB+D) or `coco17`.
        rate_hz: Frames per second that recordings are brought to.
        window_s: Length of a window.
        hop_s: From one window to the next; half a window when None.
        fit: `windows`: windows of `window_s`, a shorter recording ends in a gap. `stretch`: one
            window, the whole recording brought to its length, however long it took.
        max_gap_s: Between frames that are farther apart nothing is known.
        dropout: Part of the trunk's row that is hidden while training.
        turn_rad: In training, the body is turned about the camera's vertical by up to this.
        scale: In training, the body is made larger or smaller by up to this part.
        warp: In training, time runs faster here and slower there by up to this part.
        jitter: In training, noise of this spread is added, in mean bone lengths.
        hide_joints: In training, this part of the joints is hidden for a whole window.
    """

    op: Literal["skeleton_net"] = "skeleton_net"
    size: Literal["micro", "tiny", "small", "base"] = "tiny"
    layout: Layout = "kinect20"
    rate_hz: float = 30.0
    window_s: float = 3.2
    hop_s: float | None = None
    fit: Fit = "windows"
    max_gap_s: float = 0.3
    dropout: float = 0.1
    turn_rad: float = 0.3
    scale: float = 0.1
    warp: float = 0.1
    jitter: float = 0.01
    hide_joints: float = 0.05

    def __post_init__(self) -> None:
        check_positive(
            rate_hz=self.rate_hz,
            window_s=self.window_s,
            hop_s=hop_of(self.hop_s, self.window_s),
            max_gap_s=self.max_gap_s,
        )
        check_shares(
            dropout=self.dropout, scale=self.scale, warp=self.warp, hide_joints=self.hide_joints
        )
        if self.fit == "stretch" and self.hop_s is not None:
            raise ValueError("hop_s has no effect with `fit: stretch`: there is one window")
        if not 0 <= self.turn_rad < float("inf") or not 0 <= self.jitter < float("inf"):
            raise ValueError(
                f"turn_rad ({self.turn_rad}) and jitter ({self.jitter}) must be 0 or more"
            )

    @property
    def num_frames(self) -> int:
        """Frames of a window."""
        return whole(self.window_s, self.rate_hz)

    def build(
        self, *, channels: int, space: Literal["unit", "simplex", "raw"] | None = None
    ) -> ClipStudent:
        """A new network with random weights that gives `channels` columns in `space`."""
        from detectors.clip_student import ClipStudent
        from detectors.skeleton_net import SkeletonNet

        return ClipStudent(
            SkeletonNet(PARENTS[self.layout], self.num_frames, self.size),
            channels,
            space=space or "raw",
            head_channels=head_channels(self.size),
            dropout=self.dropout,
        )

    def describe(self, body: Skeleton) -> Clips:
        """What joints bring in all windows, [10, J, T] each; windows without any are left out.

        Raises:
            DataError: If there are other joints than the layout has, or a clock does not rise.
        """
        given, wanted = body.joints_m.shape[1], len(PARENTS[self.layout])
        if given != wanted:
            raise DataError(
                "op `skeleton_net`",
                wanted=f"{wanted} joints, as in the layout `{self.layout}`",
                got=f"{given}",
                fix=f"choose another `layout`: {', '.join(PARENTS)}",
            )
        refuse_unordered(body.time_s, body.offsets)
        sizes = body.offsets.diff().tolist()
        parts = [
            self._windows(joints_m, time_s)
            for joints_m, time_s in zip(
                body.joints_m.split(sizes), body.time_s.split(sizes), strict=True
            )
        ]
        return clips_of(parts, (10, wanted, self.num_frames))

    def _windows(self, joints_m: Tensor, time_s: Tensor) -> Tensor:
        """Windows [W, 10, J, T] of one recording."""
        import torch

        places, tracked = filled(joints_m)
        columns = torch.cat([places.flatten(1), tracked.to(places.dtype)], dim=1)
        windows, seen = even_windows(
            columns,
            time_s,
            rate_hz=self.rate_hz,
            num=self.num_frames,
            hop_s=hop_of(self.hop_s, self.window_s),
            fit=self.fit,
            max_gap_s=self.max_gap_s,
        )
        joints = joints_m.shape[1]
        rate_hz = self._rate_of(time_s)
        parts = [
            joint_features(
                window[:, : 3 * joints].unflatten(1, (joints, 3)),
                (window[:, 3 * joints :] > 0.5) & inside[:, None],
                PARENTS[self.layout],
                rate_hz,
            )
            for window, inside in zip(windows, seen, strict=True)
        ]
        kept = [part for part in parts if bool(part[-1].any())]
        return torch.stack(kept) if kept else columns.new_zeros(0, 10, joints, self.num_frames)

    def _rate_of(self, time_s: Tensor) -> float:
        """Frames per second of a window: stretched ones keep the velocities of their recording."""
        long_s = float(time_s[-1] - time_s[0]) if len(time_s) else 0.0
        stretched = self.fit == "stretch" and long_s > 0 and self.num_frames > 1
        return (self.num_frames - 1) / long_s if stretched else self.rate_hz

    def vary(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Windows with the body turned and scaled, time warped, noise added and joints hidden."""
        import torch

        from lifting.signals.augment import jitter, scale, time_warp

        joints = inputs.shape[2]
        # Joint by joint: [B, J, 9, T], and a mark for each.
        vectors = _turned(inputs[:, :9], self.turn_rad, generator).movedim(1, 2)
        # One factor for the body: as a single channel of all its numbers.
        sized = scale(vectors.flatten(1)[:, None], generator=generator, max_share=self.scale)
        moved = jitter(sized, generator=generator, std=self.jitter).view(vectors.shape)
        draw = torch.rand(len(inputs), joints, 1, generator=generator, device=generator.device).to(
            inputs.device
        )
        seen = inputs[:, 9] * (draw >= self.hide_joints)
        both = torch.cat([(moved * seen[:, :, None]).flatten(1, 2), seen], dim=1)
        warped = time_warp(both, generator=generator, max_share=self.warp)
        rows, marks = unblended(warped, joints).split([9 * joints, joints], dim=1)
        return torch.cat([rows.unflatten(1, (joints, 9)).movedim(1, 2), marks[:, None]], dim=1)

    def __call__(self, net: ClipStudent, body: Skeleton) -> Embedding:
        """Rows of whole recordings, the mean over their windows; differentiable."""
        return embedded(net, self.describe(body))


def _turned(vectors: Tensor, most_rad: float, generator: torch.Generator) -> Tensor:
    """Places, bones and velocities [B, 9, J, T] turned about the second axis, the vertical."""
    import torch

    draw = torch.rand(len(vectors), generator=generator, device=generator.device)
    angle = ((draw * 2 - 1) * most_rad).to(vectors)[:, None, None, None]
    cos, sin = angle.cos(), angle.sin()
    x, y, z = vectors.unflatten(1, (3, 3)).unbind(dim=2)
    return torch.stack([x * cos + z * sin, y, z * cos - x * sin], dim=2).flatten(1, 2)
