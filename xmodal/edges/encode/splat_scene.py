"""The op `splat_scene`: the splats of one scene, learnt with their colours and meaning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xmodal.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from detectors.splat_student import SplatScene, SplatStudent
    from xmodal.values import Gaussians


@dataclass(frozen=True, kw_only=True)
class SplatSceneOp:
    """The splats of one scene, started from bare ones, and one learnt row for each.

    Colour and features of a splat are read from the same row by two small decoders, so that a
    rendering teaches appearance and meaning jointly (`render`). Where a splat is, its size,
    rotation and opacity are learnt as well.

    Attributes:
        width: Width of the shared rows.
        reach_m: Farthest that a splat moves along each axis, metres.

    Source:
        Li et al., GP-NeRF, CVPR 2024 (arXiv 2311.11863): one field of radiance and semantics.
    """

    op: Literal["splat_scene"] = "splat_scene"
    width: int = 32
    reach_m: float = 0.02

    # Its numbers are those of certain splats: no other scene can be shown to it.
    one_scene = True
    draws = True
    sees_splats = True

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width must be 1 or more, not {self.width}")
        if not 0 < self.reach_m < float("inf"):
            raise ValueError(f"reach_m must be above 0 metres, not {self.reach_m}")

    def build(
        self,
        *,
        channels: int,
        num_rows: int | None = None,
        space: Literal["unit", "simplex", "raw"] | None = None,
    ) -> SplatScene:
        """A new scene, as the bare splats are, with small random rows.

        Args:
            channels: Width of the features.
            num_rows: Splats of the scene.
            space: Space of the features.

        Raises:
            DataError: If the number of splats is not known.
        """
        from detectors.splat_student import SplatScene

        if num_rows is None:
            raise DataError(
                "op `splat_scene`",
                wanted="the splats of one scene, which it changes",
                got="a run over several scenes, or no splats yet",
                fix="name one scene under data, or use `gaussian_head`, which sees points",
            )
        return SplatScene(
            num_rows, channels, width=self.width, space=space or "raw", reach_m=self.reach_m
        )

    def describe(self, splats: Gaussians) -> Tensor:
        """The number of each splat, and what it starts as."""
        import torch

        from xmodal.splats.values import as_splats, start_columns

        start = start_columns(as_splats(splats, "op `splat_scene`"))
        # Whole numbers are exact in float32 up to 16 million.
        number = torch.arange(len(start), dtype=torch.float32)[:, None]
        return torch.cat((number, start), dim=1)

    def __call__(self, net: SplatStudent, splats: Gaussians) -> Gaussians:
        """The learnt splats, each with its row; differentiable."""
        from xmodal.train.drawn import as_drawn

        encoded = net.encode(splats.means, splats.offsets, self.describe(splats))
        shapes = net.shapes(encoded, splats.means)
        return as_drawn(shapes, net.decode(encoded), splats.offsets)
