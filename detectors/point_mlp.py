"""The small baseline: a perceptron on every point by itself, without neighbours."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from detectors.point_student import Encoded, LayeredStudent
from detectors.spaces import Space


class PointMLP(LayeredStudent):
    """Fully connected layers on the inputs of each point, to compare geometry against.

    Args:
        in_channels: Width of the inputs of a point.
        out_channels: Width of the rows.
        width: Width of the hidden layers.
        depth: Number of hidden layers, at least 1.
        space: Space of the rows.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, width: int, depth: int, space: Space
    ) -> None:
        super().__init__(space)
        layers: list[nn.Module] = []
        for channels in [in_channels] + [width] * (depth - 1):
            layers += [nn.Linear(channels, width), nn.LayerNorm(width), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.output = nn.Linear(width, out_channels)

    @property
    def last(self) -> nn.Linear:
        """The layer after the hidden ones."""
        return self.output

    def encode(
        self,
        xyz: Float[Tensor, "N 3"],
        offsets: Int[Tensor, " B1"],
        inputs: Float[Tensor, "N Ci"],
    ) -> Encoded:
        """Nothing to look at but the inputs."""
        return Encoded(inputs, inputs, torch.arange(len(inputs), device=inputs.device))

    def decode_raw(
        self, encoded: Encoded, select: Int[Tensor, " S"] | None
    ) -> Float[Tensor, "S C"]:
        """The perceptron on the selected points."""
        inputs = encoded.inputs if select is None else encoded.inputs[select]
        return self.output(self.layers(inputs))
