"""What the ops of students of motion share: windows of readings at one rate, and how they vary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xmodal.edges.encode.clip_student import (
    Fit,
    check_positive,
    check_shares,
    clips_of,
    head_channels,
    hop_of,
    refuse_unordered,
    whole,
)
from xmodal.edges.encode.time_windows import even_windows, unblended
from xmodal.errors import DataError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from detectors.clip_student import ClipStudent, ClipTrunk
    from xmodal.recordings.inputs import Clips
    from xmodal.values import Imu

Normalise = Literal["units", "recording", "centred"]

# Readings of about 1: standing still under gravity, and a brisk turn of the hand.
_ACCEL_MPS2, _GYRO_RADPS = 9.81, 3.0


@dataclass(frozen=True, kw_only=True)
class ImuStudentOp:
    """Settings of a student of motion; subclasses say which network stands on the readings.

    A window has nine channels: acceleration and rotation along three axes, the length of each, and
    1 where there is a reading (0 in gaps and behind the end).

    Attributes:
        op: Name of the op.
        size: Preset of the network.
        rate_hz: Readings per second that the clocks are brought to.
        window_s: Length of a window.
        hop_s: From one window to the next; half a window when None.
        fit: `windows`: windows of `window_s`, a shorter recording ends in a gap. `stretch`: one
            window, the whole recording brought to its length, however long it took.
        max_gap_s: Between readings that are farther apart nothing is known.
        align: Turn each recording so that its mean acceleration, gravity mostly, points up (+z).
        normalise: `units`: as measured, in units of gravity and of 3 rad/s. `recording`: without
            the mean of each axis, in units of the recording's own spread. `centred`: without the
            mean, in fixed units.
        dropout: Part of the trunk's row that is hidden while training.
        turn_rad: In training, the sensor is turned by up to this, about any axis, or about the
            vertical with `align`.
        scale: In training, each channel is made larger or smaller by up to this part.
        warp: In training, time runs faster here and slower there by up to this part.
        jitter: In training, noise of this spread is added, in the units of the readings.
    """

    op: str = ""
    size: Literal["micro", "tiny", "small", "base"] = "tiny"
    rate_hz: float = 50.0
    window_s: float = 3.2
    hop_s: float | None = None
    fit: Fit = "windows"
    max_gap_s: float = 0.2
    align: bool = False
    normalise: Normalise = "units"
    dropout: float = 0.1
    turn_rad: float = 0.3
    scale: float = 0.1
    warp: float = 0.1
    jitter: float = 0.02

    def __post_init__(self) -> None:
        check_positive(
            rate_hz=self.rate_hz,
            window_s=self.window_s,
            hop_s=hop_of(self.hop_s, self.window_s),
            max_gap_s=self.max_gap_s,
        )
        check_shares(dropout=self.dropout, scale=self.scale, warp=self.warp)
        if self.fit == "stretch" and self.hop_s is not None:
            raise ValueError("hop_s has no effect with `fit: stretch`: there is one window")
        if not 0 <= self.turn_rad < float("inf") or not 0 <= self.jitter < float("inf"):
            raise ValueError(
                f"turn_rad ({self.turn_rad}) and jitter ({self.jitter}) must be 0 or more"
            )

    @property
    def num_samples(self) -> int:
        """Readings of a window."""
        return whole(self.window_s, self.rate_hz)

    def student(
        self, trunk: ClipTrunk, channels: int, space: Literal["unit", "simplex", "raw"] | None
    ) -> ClipStudent:
        """The student around a trunk."""
        from detectors.clip_student import ClipStudent

        return ClipStudent(
            trunk,
            channels,
            space=space or "raw",
            head_channels=head_channels(self.size),
            dropout=self.dropout,
        )

    def describe(self, imu: Imu) -> Clips:
        """Readings of all windows at one rate, [9, N] each; windows without any are left out.

        A reading that is not a number counts as missing.

        Raises:
            DataError: If a clock does not rise, or `align` finds no gravity.
        """
        import torch

        refuse_unordered(imu.time_s, imu.offsets)
        readings = torch.cat([imu.accel_mps2, imu.gyro_radps], dim=1)
        sizes = imu.offsets.diff().tolist()
        parts = [
            self._windows(part, time_s, place)
            for place, (part, time_s) in enumerate(
                zip(readings.split(sizes), imu.time_s.split(sizes), strict=True)
            )
        ]
        return clips_of(parts, (9, self.num_samples))

    def _windows(self, readings: Tensor, time_s: Tensor, place: int) -> Tensor:
        """Windows [W, 9, N] of one recording."""
        import torch

        known = readings.isfinite().all(dim=1)
        readings, time_s = readings[known], time_s[known]
        if len(readings) and self.align:
            readings = _upright(readings, place)
        lengths = torch.stack([readings[:, :3].norm(dim=1), readings[:, 3:].norm(dim=1)], dim=1)
        windows, seen = even_windows(
            torch.cat([self._normalised(readings), self._scaled_lengths(lengths)], dim=1),
            time_s,
            rate_hz=self.rate_hz,
            num=self.num_samples,
            hop_s=hop_of(self.hop_s, self.window_s),
            fit=self.fit,
            max_gap_s=self.max_gap_s,
        )
        return torch.cat([windows, seen[:, :, None].to(windows.dtype)], dim=2).movedim(1, 2)

    def _normalised(self, readings: Tensor) -> Tensor:
        units = readings.new_tensor([_ACCEL_MPS2] * 3 + [_GYRO_RADPS] * 3)
        if self.normalise == "units" or not len(readings):
            return readings / units
        centred = readings - readings.mean(dim=0)
        if self.normalise == "centred":
            return centred / units
        spread = centred.unflatten(1, (2, 3)).square().mean(dim=(0, 2)).sqrt()
        # A sensor at rest has no spread; a thousandth of the units is far below what hands do.
        return centred / spread.repeat_interleave(3).clamp_min(1e-3 * units)

    def _scaled_lengths(self, lengths: Tensor) -> Tensor:
        """Lengths in fixed units; without gravity and offset where axes are centred."""
        import torch

        units = lengths.new_tensor([_ACCEL_MPS2, _GYRO_RADPS])
        if self.normalise == "units" or not len(lengths):
            return lengths / units
        centred = lengths - lengths.mean(dim=0)
        if self.normalise == "centred":
            return centred / units
        spread = centred.square().mean(dim=0).sqrt()
        return centred / torch.maximum(spread, 1e-3 * units)

    def vary(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Windows with the sensor turned, readings scaled, time warped and noise added."""
        import torch

        from lifting.signals.augment import jitter, rotate, scale, time_warp

        readings, lengths, seen = inputs.split([6, 2, 1], dim=1)
        about = "z" if self.align else "any"
        turned = rotate(readings, generator=generator, max_rad=self.turn_rad, about=about)
        both = torch.cat([turned, lengths], dim=1)
        both = scale(both, generator=generator, max_share=self.scale)
        both = jitter(both, generator=generator, std=self.jitter)
        both = torch.cat([both * seen, seen], dim=1)
        return unblended(time_warp(both, generator=generator, max_share=self.warp), 1)


def _upright(readings: Tensor, place: int) -> Tensor:
    import torch

    from lifting.signals.inertial import align_gravity

    try:
        return torch.cat(align_gravity(readings[:, :3], readings[:, 3:]), dim=1)
    except ValueError as error:
        raise DataError(
            f"recording {place} of the batch",
            wanted="accelerations with gravity in them, for `align: true`",
            got=str(error),
            fix="write align: false, or give accelerations as the sensor measured them",
        ) from error
