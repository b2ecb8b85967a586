"""The op `point_mlp`: the small baseline student."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xmodal.point_inputs import PointInput, Up, check_inputs, describe_points, input_channels

if TYPE_CHECKING:
    from torch import Tensor

    from detectors.point_student import PointStudent
    from xmodal.values import Points


@dataclass(frozen=True, kw_only=True)
class PointMlp:
    """A perceptron on every point by itself: the baseline that sees no neighbours.

    Attributes:
        width: Width of the hidden layers.
        depth: Number of hidden layers.
        inputs: What each point brings: `rgb`, `normals`, `height`, `xyz` (see `describe_points`).
            With `xyz` a student knows one room by heart; for one that works in other rooms, leave
            it out and train on many scenes.
        up: Axis of the world frame that points up.
    """

    op: Literal["point_mlp"] = "point_mlp"
    width: int = 256
    depth: int = 4
    inputs: tuple[PointInput, ...] = ("rgb", "normals", "height", "xyz")
    up: Up = "z"

    def __post_init__(self) -> None:
        check_inputs(self.inputs)
        if self.width < 1 or self.depth < 1:
            msg = f"width and depth must be at least 1, not {self.width} and {self.depth}"
            raise ValueError(msg)

    def build(
        self, *, channels: int, space: Literal["unit", "simplex", "raw"] | None = None
    ) -> PointStudent:
        """A new network with random weights that gives `channels` columns in `space`."""
        from detectors.point_mlp import PointMLP

        return PointMLP(
            input_channels(self.inputs),
            channels,
            width=self.width,
            depth=self.depth,
            space=space or "raw",
        )

    def describe(self, cloud: Points) -> Tensor:
        """Inputs of every point, which depend on the whole cloud: compute them before cropping."""
        return describe_points(cloud, self.inputs, self.up)

    def __call__(self, net: PointStudent, cloud: Points) -> Points:
        """Rows of every point of the cloud, in the network's space; differentiable."""
        from xmodal.train.inference import run_student

        return run_student(net, cloud, self.describe(cloud))
