"""The op `render`: splats learn from pictures, their depth, and what a teacher saw in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xmodal.edges.distill.project import Project, projection
from xmodal.edges.distill.settings import check_distill, compared, probabilities
from xmodal.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lifting.gaussians.joint import JointView
    from xmodal.splats.frames import Frame
    from xmodal.values import Frames, Gaussians

_WEIGHTS = ("colour", "depth", "features", "self_teach")


@dataclass(frozen=True, kw_only=True)
class Render:
    """Render a student's splats into a few views and compare colour, depth and features.

    One compositing serves all three, and gradients reach position, size, rotation, opacity, colour
    and feature of every splat. Features are averaged over the teacher's patches (or masks) before
    they are compared, so that teacher maps are never enlarged.

    Attributes:
        weight: Factor of this edge in the sum of all losses.
        views: Views that a step renders, drawn by chance.
        colour: Weight of the colours.
        dssim: Share of structural dissimilarity in it; the rest is the absolute difference.
        depth: Weight of the absolute error of depth, for each metre, where there is a reading.
        features: Weight of the features.
        by: Measure of the features: `cosine`, or `kl` for probabilities.
        self_teach: Weight of what a pixel shows as a teacher of the splats in it, those near the
            depth that is rendered there; rows of one surface then agree.
        band_m: How far from that depth, metres (one standard deviation).
        project: A learned layer from what is rendered to the teacher's width; see `Loss`.

    Source:
        Yao et al., GaussianCross, ACM MM 2025 (arXiv 2508.02172): colour, depth and features of
        rendered views teach a point network. Li et al., GP-NeRF, CVPR 2024 (arXiv 2311.11863):
        joint rendering, and the depth-guided self-distillation behind `self_teach`.
    """

    op: Literal["render"] = "render"
    weight: float = 1.0
    views: int = 1
    colour: float = 1.0
    dssim: float = 0.2
    depth: float = 0.5
    features: float = 1.0
    by: Literal["cosine", "kl"] = "cosine"
    self_teach: float = 0.0
    band_m: float = 0.1
    project: Project = "none"

    # Renders splats that the student itself shapes.
    draws = True

    def __post_init__(self) -> None:
        check_distill(self.weight, 0.0)
        for name in _WEIGHTS:
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)}")
        if not any(getattr(self, name) for name in _WEIGHTS[:3]):
            raise ValueError("one of colour, depth and features must be above 0")
        if self.views < 1:
            raise ValueError(f"views must be 1 or more, not {self.views}")
        if not 0 <= self.dssim <= 1:
            raise ValueError(f"dssim must be a share in [0, 1], not {self.dssim}")
        if not 0 < self.band_m < float("inf"):
            raise ValueError(f"band_m must be above 0 metres, not {self.band_m}")
        if self.project != "none" and self.features == 0:
            raise ValueError("project has no effect with features: 0; leave it out")

    @property
    def teacher_spaces(self) -> tuple[str, ...]:
        """Spaces of teacher rows that the measure takes."""
        return ("unit", "raw") if self.by == "cosine" else ("simplex",)

    def build(self, *, channels: int, teacher_channels: int) -> nn.Module | None:
        """The edge's `Head`, or None when there is nothing to learn."""
        layer = projection(self.project, channels, teacher_channels)
        if layer is None:
            return None
        from xmodal.edges.distill.head import Head

        return Head(layer)

    def __call__(
        self, teacher: Frames, student: Gaussians, *, net: nn.Module | None = None
    ) -> Tensor:
        """Mean loss of the views, without the edge's `weight`; NaN where a splat is not finite.

        Raises:
            DataError: If the splats have no rows, are of several scenes, or there is no view.
        """
        import torch

        from lifting.gaussians.joint import draw_jointly
        from xmodal.splats.frames import frame_at
        from xmodal.splats.values import as_splats

        rows = student.rows
        if rows is None or len(teacher) == 0:
            raise DataError(
                "distillation by `render`",
                wanted="splats with rows, and at least one view",
                got="splats without rows" if rows is None else "no view",
                fix="make the student with `gaussian_head` or `splat_scene`, and lift more frames",
            )
        parts = (student.means, student.quats, student.scales, student.opacities, student.sh, rows)
        if not all(part is None or bool(part.isfinite().all()) for part in parts):
            return rows.sum() * float("nan")
        splats = as_splats(student, "distillation by `render`")
        losses: list[Tensor] = []
        for index in range(len(teacher)):
            frame = frame_at(teacher, index)
            losses.append(self._view(frame, draw_jointly(splats, frame.camera, rows), rows, net))
        return torch.stack(losses).mean()

    def _view(self, frame: Frame, view: JointView, rows: Tensor, net: nn.Module | None) -> Tensor:
        """The loss of one view."""
        from lifting.gaussians.image_loss import depth_l1, photo_loss

        loss = rows[:0].sum()
        if self.colour > 0 and bool(frame.inside.any()):
            told = photo_loss(view.colour, frame.rgb, dssim=self.dssim, valid=frame.inside)
            loss = loss + self.colour * told
        if self.depth > 0:
            loss = loss + self.depth * depth_l1(view.depth_m, frame.depth_m, frame.inside)
        if self.features > 0:
            loss = loss + self.features * self._features(frame, view, net)
        if self.self_teach > 0:
            from lifting.gaussians.joint import near_surface
            from xmodal.losses import shown_rows

            near = near_surface(view, self.band_m)
            loss = loss + self.self_teach * shown_rows(view.features, rows, near, by=self.by)
        return loss

    def _features(self, frame: Frame, view: JointView, net: nn.Module | None) -> Tensor:
        """What the pixels of every patch show, against the teacher's row of it."""
        from xmodal import losses

        inside = frame.inside.flatten().to(view.features.dtype)
        # Every pixel gives its patches shares of one.
        pool = frame.taps.mean().scale_rows(inside).transpose().to(dtype=view.features.dtype)
        alpha = pool.apply(view.alpha.flatten()[:, None]).squeeze(1)
        seen = (alpha > 0).nonzero().squeeze(1)
        shown = pool.select_rows(seen).apply(view.features) / alpha[seen, None]
        # How much of a patch is shown, against the largest: patches at a border count less.
        weight = alpha.detach()[seen] * frame.weight[seen] * frame.valid[seen]
        target = frame.rows[seen]
        if self.by == "kl":
            return losses.kl(target, probabilities(shown, net), weight=weight)
        return losses.cosine(*compared(target, shown, net), weight=weight)
