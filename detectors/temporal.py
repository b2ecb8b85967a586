"""Residual temporal convolutions, dilated and with strides, over readings with gaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Stage:
    """One residual block.

    Attributes:
        channels: Width.
        stride: How much shorter time becomes.
        dilation: Distance between the readings that the first convolution looks at.
    """

    channels: int
    stride: int = 1
    dilation: int = 1


class TemporalTrunk(nn.Module):
    """A stack of residual blocks over time.

    Args:
        in_channels: Channels of a reading.
        stages: The blocks.
        kernel: Length of the convolutions, odd.

    Raises:
        ValueError: If there is no block, or `kernel` is even.

    Source:
        Bai, Kolter and Koltun, An Empirical Evaluation of Generic Convolutional and Recurrent
        Networks for Sequence Modeling, 2018, section 3; without causality, with batch norm.
    """

    def __init__(self, in_channels: int, stages: Sequence[Stage], *, kernel: int = 5) -> None:
        super().__init__()
        if not stages or kernel % 2 == 0:
            msg = f"at least one block and an odd kernel are needed, not {stages} and {kernel}"
            raise ValueError(msg)
        self.stem = nn.Sequential(
            nn.Conv1d(in_channels, stages[0].channels, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm1d(stages[0].channels),
            nn.GELU(),
        )
        before = [stages[0].channels, *(stage.channels for stage in stages)]
        self.blocks = nn.ModuleList(
            _Block(width, stage, kernel) for width, stage in zip(before, stages, strict=False)
        )
        self.strides = tuple(stage.stride for stage in stages)

    def forward(
        self, x: Float[Tensor, "B C T"], seen: Float[Tensor, "B 1 T"]
    ) -> tuple[list[Float[Tensor, "B _ _"]], Float[Tensor, "B 1 T1"]]:
        """What every block gives, and where the last one stands on readings.

        Args:
            x: Readings; what they hold where nothing was seen has no effect.
            seen: 1 where there is a reading, 0 in gaps and padding.
        """
        x = self.stem(x * seen) * seen
        maps: list[Tensor] = []
        for block, stride in zip(self.blocks, self.strides, strict=True):
            if stride > 1:
                after = functional.max_pool1d(seen, stride, stride, ceil_mode=True)
            else:
                after = seen
            # Else biases would fill the gaps, and convolutions carry that back to the readings.
            x, seen = block(x) * after, after
            maps.append(x)
        return maps, seen


class _Block(nn.Module):
    """Two convolutions with a way around them."""

    def __init__(self, in_channels: int, stage: Stage, kernel: int) -> None:
        super().__init__()
        reach, width = kernel // 2, stage.channels
        self.first = nn.Conv1d(
            in_channels,
            width,
            kernel,
            stride=stage.stride,
            dilation=stage.dilation,
            padding=reach * stage.dilation,
            bias=False,
        )
        self.first_norm = nn.BatchNorm1d(width)
        self.second = nn.Conv1d(width, width, kernel, padding=reach, bias=False)
        self.second_norm = nn.BatchNorm1d(width)
        # The block begins as the way around it.
        nn.init.zeros_(self.second_norm.weight)
        self.around: nn.Module = nn.Identity()
        if stage.stride > 1 or in_channels != width:
            self.around = nn.Sequential(
                nn.AvgPool1d(stage.stride, stage.stride, ceil_mode=True, count_include_pad=False),
                nn.Conv1d(in_channels, width, 1, bias=False),
                nn.BatchNorm1d(width),
            )

    def forward(self, x: Float[Tensor, "B Ci T"]) -> Float[Tensor, "B Co T1"]:
        """The block's output."""
        inner = functional.gelu(self.first_norm(self.first(x)))
        inner = self.second_norm(self.second(inner))
        return functional.gelu(inner + self.around(x))
