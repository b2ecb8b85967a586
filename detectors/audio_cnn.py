"""Sound: a convolutional network of separable residual blocks over log-mel spectrograms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detectors.clip_student import ClipSize, ClipTrunk, Seen

# A block hides in this many times its width, and its gate is this much narrower than that.
_EXPANSION, _GATE = 3, 8


@dataclass(frozen=True)
class _Preset:
    stem: int
    stages: tuple[tuple[int, int], ...]  # width and number of blocks, each halves both axes
    rows: int


_SIZES: Mapping[ClipSize, _Preset] = MappingProxyType(
    {
        "micro": _Preset(16, ((32, 2), (56, 2), (88, 2)), 192),
        "tiny": _Preset(24, ((32, 2), (64, 3), (112, 3)), 320),
        "small": _Preset(32, ((64, 3), (128, 4), (208, 4)), 512),
        "base": _Preset(48, ((96, 4), (192, 6), (320, 5)), 768),
    }
)


class AudioCNN(ClipTrunk):
    """Depthwise separable residual blocks over a log-mel spectrogram of one or more channels.

    Every frequency of every channel is normalised by itself, so that loud bands do not drown the
    others. Rows pool frequencies by their mean, then time by mean and maximum or by attention.

    Args:
        channels: Channels of the spectrogram.
        num_mels: Frequency bands.
        num_frames: Frames of a window.
        size: Preset; `micro` has less than a tenth of YAMNet's weights.
        attention: Pool time by learnt attention (mean and spread) instead of mean and maximum.

    Raises:
        ValueError: If a number is below 1.

    Source:
        Blocks: Sandler et al., MobileNetV2, CVPR 2018, section 3.3, with the gate of Hu et al.,
        Squeeze-and-Excitation Networks, CVPR 2018; normalised frequencies and pooling: Kong et al.,
        PANNs, TASLP 2020, section III; attention: Okabe et al., Attentive Statistics Pooling,
        Interspeech 2018.
    """

    def __init__(
        self,
        channels: int,
        num_mels: int,
        num_frames: int,
        size: ClipSize = "tiny",
        *,
        attention: bool = False,
    ) -> None:
        if min(channels, num_mels, num_frames) < 1:
            msg = f"no spectrogram has the shape {(channels, num_mels, num_frames)}"
            raise ValueError(msg)
        preset = _SIZES[size]
        widths = tuple(width for width, _ in preset.stages)
        super().__init__(
            width=2 * preset.rows,
            map_channels=(preset.stem, *widths),
            in_shape=(channels, num_mels, num_frames),
        )
        self.frequencies = nn.BatchNorm1d(channels * num_mels)
        self.stem = nn.Sequential(
            nn.Conv2d(channels, preset.stem, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(preset.stem),
            nn.ReLU(),
        )
        self.stages = nn.ModuleList()
        before = preset.stem
        for width, count in preset.stages:
            blocks = [_Separable(before, width, 2)]
            blocks += [_Separable(width, width, 1) for _ in range(count - 1)]
            self.stages.append(nn.Sequential(*blocks))
            before = width
        # Channels side by side: point-wise layers and norms read memory in a row (1.5x on a CPU).
        for one in (*self.stem.parameters(), *self.stages.parameters()):
            if one.ndim == 4:
                one.data = one.data.contiguous(memory_format=torch.channels_last)
        self.last = nn.Sequential(
            nn.Conv1d(before, preset.rows, 1, bias=False), nn.BatchNorm1d(preset.rows), nn.ReLU()
        )
        self.attention = AttentivePooling(preset.rows) if attention else None

    def see(self, inputs: Float[Tensor, "B Ci M T"]) -> Seen:
        """Maps after the stem and every stage, [B, F, frequencies, frames], and rows."""
        x = self.frequencies(inputs.flatten(1, 2)).unflatten(1, self.in_shape[:2])
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        maps = [x]
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        over_time = self.last(x.mean(dim=2))
        if self.attention is not None:
            return Seen(tuple(maps), self.attention(over_time))
        rows = torch.cat([over_time.mean(dim=2), over_time.amax(dim=2)], dim=1)
        return Seen(tuple(maps), rows)


class AttentivePooling(nn.Module):
    """Mean and spread over time, each channel by weights of its own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 4, 8)
        self.score = nn.Sequential(
            nn.Conv1d(channels, hidden, 1), nn.Tanh(), nn.Conv1d(hidden, channels, 1)
        )

    def forward(self, x: Float[Tensor, "B C T"]) -> Float[Tensor, "B C2"]:
        """Weighted mean and standard deviation, side by side."""
        share = self.score(x).softmax(dim=2)
        mean = (x * share).sum(dim=2)
        variance = ((x - mean[:, :, None]).square() * share).sum(dim=2)
        # The root has no gradient at 0, where a window is the same all along.
        return torch.cat([mean, (variance + 1e-5).sqrt()], dim=1)


class _Separable(nn.Module):
    """Widen, look at each channel's surroundings by itself, gate, narrow; with a way around."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        hidden = in_channels * _EXPANSION
        self.inner = nn.Sequential(
            nn.Conv2d(in_channels, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 3, stride=stride, padding=1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
        )
        narrow = max(hidden // _GATE, 4)
        self.gate = nn.Sequential(
            nn.Conv2d(hidden, narrow, 1), nn.ReLU(), nn.Conv2d(narrow, hidden, 1), nn.Sigmoid()
        )
        self.narrow = nn.Sequential(
            nn.Conv2d(hidden, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
        )
        self.same = stride == 1 and in_channels == out_channels

    def forward(self, x: Float[Tensor, "B Ci H W"]) -> Float[Tensor, "B Co H1 W1"]:
        """The block's output."""
        inner = self.inner(x)
        inner = self.narrow(inner * self.gate(inner.mean(dim=(2, 3), keepdim=True)))
        return x + inner if self.same else inner
