"""The op `splat_field`: one learnt row for each splat of a scene."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xmodal.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from detectors.point_student import PointStudent
    from xmodal.values import Gaussians, Points


@dataclass(frozen=True, kw_only=True)
class SplatFieldOp:
    """A feature for each splat, learnt through what views show of it.

    Rows belong to the splats of one scene. They are usually narrow, and the distill edge decodes
    what is rendered of them (`project`, with `decode: sets`).

    Attributes:
        start: `lifted`: begin with the closed form. The decoder of the first edge from sets is set
            to the principal directions of the teacher's rows, and every splat to the mean of what
            it shows, along these. Not with `project: orthogonal`, which stays random. `random`:
            begin with small random rows.
    """

    op: Literal["splat_field"] = "splat_field"
    start: Literal["lifted", "random"] = "lifted"

    # Its rows are those of certain splats: no other scene can be shown to it.
    one_scene = True

    def build(
        self,
        *,
        channels: int,
        num_rows: int | None = None,
        space: Literal["unit", "simplex", "raw"] | None = None,
    ) -> PointStudent:
        """A new field; rows are small and random until training begins.

        Args:
            channels: Width of the rows.
            num_rows: Splats of the scene.
            space: Space of the rows.

        Raises:
            DataError: If the number of splats is not known.
        """
        from detectors.splat_field import SplatField

        if num_rows is None:
            raise DataError(
                "op `splat_field`",
                wanted="the splats of one scene, which its rows belong to",
                got="a run over several scenes, or no splats yet",
                fix="name one scene under data, or use a student that sees points",
            )
        return SplatField(num_rows, channels, space=space or "raw", start=self.start)

    def describe(self, cloud: Points) -> Tensor:
        """The number of each splat."""
        import torch

        # Whole numbers are exact in float32 up to 16 million.
        return torch.arange(len(cloud.xyz), dtype=torch.float32)[:, None]

    def __call__(self, net: PointStudent, splats: Gaussians) -> Gaussians:
        """Rows of every splat, in the field's space; differentiable."""
        from dataclasses import replace

        from xmodal.splats.values import centres
        from xmodal.train.inference import run_student

        points = centres(replace(splats, rows=None))
        told = run_student(net, points, self.describe(points))
        return replace(splats, rows=told.rows, valid=told.valid, weight=told.weight)
