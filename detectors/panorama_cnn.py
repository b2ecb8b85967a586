"""Pictures that go all the way round: a small residual network whose columns close to a ring."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from detectors.clip_student import ClipSize, ClipTrunk, Seen

# Width of the stem, then width and number of blocks of each stage; all of them halve both axes.
_SIZES: Mapping[ClipSize, tuple[int, tuple[tuple[int, int], ...]]] = MappingProxyType(
    {
        "micro": (16, ((24, 1), (48, 1), (80, 1))),
        "tiny": (16, ((32, 1), (64, 2), (112, 2))),
        "small": (24, ((48, 2), (96, 2), (192, 2))),
        "base": (32, ((64, 2), (128, 3), (256, 3))),
    }
)
_LEAST_SIDE = 16


class PanoramaCNN(ClipTrunk):
    """Residual blocks over a picture of all directions; the last column is beside the first.

    Args:
        frame_hw: Rows (elevation) and columns (azimuth, a whole turn) of the picture.
        size: Preset.

    Raises:
        ValueError: If the picture is smaller than what four stages halve.

    Source:
        Blocks: He et al., Deep Residual Learning, CVPR 2016; columns that close to a ring: Cheng et
        al., Cube Padding for Weakly-Supervised Saliency Prediction in 360 Videos, CVPR 2018, here
        on the panorama itself.
    """

    # A decoder keeps directions apart, as the plan of a room asks for them.
    last_hw = (4, 8)

    def __init__(self, frame_hw: tuple[int, int], size: ClipSize = "tiny") -> None:
        if min(frame_hw) < _LEAST_SIDE:
            raise ValueError(f"a picture must have {_LEAST_SIDE} rows and columns, not {frame_hw}")
        stem, stages = _SIZES[size]
        widths = tuple(width for width, _ in stages)
        super().__init__(
            width=2 * widths[-1], map_channels=(stem, *widths), in_shape=(3, *frame_hw)
        )
        self.stem = nn.Sequential(_Round(3, stem, 2), nn.BatchNorm2d(stem), nn.ReLU())
        self.stages = nn.ModuleList()
        before = stem
        for width, count in stages:
            blocks = [_Block(before, width, 2)]
            blocks += [_Block(width, width, 1) for _ in range(count - 1)]
            self.stages.append(nn.Sequential(*blocks))
            before = width
        # Channels side by side, as in the network of sound.
        for one in (p for p in self.parameters() if p.ndim == 4):
            one.data = one.data.contiguous(memory_format=torch.channels_last)

    def see(self, inputs: Float[Tensor, "B 3 H W"]) -> Seen:
        """Maps after the stem and every stage, and the mean and largest values of the last."""
        x = self.stem(inputs.contiguous(memory_format=torch.channels_last))
        maps = [x]
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return Seen(tuple(maps), torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1))


class _Round(nn.Module):
    """A convolution of 3 x 3 that goes on at the first column after the last."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.inner = nn.Conv2d(
            in_channels, out_channels, 3, stride=stride, padding=(1, 0), bias=False
        )

    def forward(self, x: Float[Tensor, "B Ci H W"]) -> Float[Tensor, "B Co H1 W1"]:
        """The map."""
        return self.inner(torch.cat([x[..., -1:], x, x[..., :1]], dim=3))


class _Block(nn.Module):
    """Two convolutions with a way around."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            _Round(in_channels, out_channels, stride),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            _Round(out_channels, out_channels, 1),
            nn.BatchNorm2d(out_channels),
        )
        self.around: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.around = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Float[Tensor, "B Ci H W"]) -> Float[Tensor, "B Co H1 W1"]:
        """The block's output."""
        return functional.relu(self.inner(x) + self.around(x))
