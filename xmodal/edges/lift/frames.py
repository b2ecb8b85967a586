"""The op `frames`: small posed pictures, with what a teacher saw in them, kept to train with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xmodal.edges.lift.held_out import check_hold_out, left_out, view_names
from xmodal.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from xmodal.splats.frames import Frame
    from xmodal.values import Depth, FeatureMap, Frames, Image, Masks, Views


@dataclass(frozen=True, kw_only=True)
class LiftFrames:
    """Keep some views small and in memory: colour, depth and teacher rows, to be rendered against.

    Pictures are made straight (ideal lenses) and small. The teacher's rows stay patches or masks;
    only what a pixel reads of them is worked out.

    Attributes:
        max_side_px: Longest side of the pictures, pixels.
        num_views: So many views, evenly chosen; all if null.
        hold_out: Leave every so-manyth view (by name) out, to test with; none if null.
    """

    op: Literal["frames"] = "frames"
    max_side_px: int = 80
    num_views: int | None = None
    hold_out: int | None = None

    def __post_init__(self) -> None:
        if self.max_side_px < 1:
            raise ValueError(f"max_side_px must be 1 or more, not {self.max_side_px}")
        if self.num_views is not None and self.num_views < 1:
            raise ValueError(f"num_views must be 1 or more, or null for all, not {self.num_views}")
        check_hold_out(self.hold_out)

    def __call__(
        self,
        cameras: Views[Image],
        depth: Views[Depth] | None,
        maps: Views[FeatureMap] | Views[Masks],
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> Frames:
        """The chosen views.

        Args:
            cameras: The pictures.
            depth: Their depth maps, if there are any.
            maps: Teacher output of the same pictures; only that of the chosen ones is read.
            progress: Called with views done and views in all.

        Raises:
            DataError: If no view is left, there is not one map (or depth map) per picture, frames
                differ in width, or parts of a frame do not fit each other.
        """
        from xmodal.splats.frames import stack_frames

        for name, other in (("map", maps), ("depth map", depth)):
            if other is not None and len(other) != len(cameras):
                raise DataError(
                    "lift to frames",
                    wanted=f"one {name} for each of {len(cameras)} pictures",
                    got=f"{len(other)} of them",
                    fix="give all sensors the same frames",
                )
        chosen = self.chosen(cameras)
        views: list[Frame] = []
        try:
            for done, index in enumerate(chosen, start=1):
                reading = None if depth is None else depth[index]
                views.append(self._frame(cameras[index], reading, maps[index]))
                if progress is not None:
                    progress(done, len(chosen))
            return stack_frames(views)
        except ValueError as error:
            raise DataError(
                "lift to frames",
                wanted="pictures, cameras and teacher output of one width that belong together",
                got=str(error),
                fix="check the part that the message names, or clear the teacher cache",
            ) from error

    def chosen(self, cameras: Views[Image]) -> list[int]:
        """Numbers of the views that are kept.

        Raises:
            DataError: If none is left.
        """
        names = view_names(cameras)
        tested = set(left_out(names, self.hold_out))
        left = [index for index in range(len(names)) if index not in tested]
        if not left:
            raise DataError(
                "lift to frames",
                wanted="at least one picture that is not held out",
                got=f"{len(names)} pictures",
                fix="check the scene's folder, or leave hold_out away",
            )
        if self.num_views is None or self.num_views >= len(left):
            return left
        share = len(left) / self.num_views
        return [left[int((place + 0.5) * share)] for place in range(self.num_views)]

    def _frame(self, image: Image, depth: Depth | None, seen: FeatureMap | Masks) -> Frame:
        import torch

        from lifting.gaussians.teacher_views import view_taps
        from lifting.views import ViewGeometry
        from xmodal.edges.lift.fit_splats import photo_of
        from xmodal.edges.lift.lazy_views import lift_view
        from xmodal.splats.frames import Frame

        others = {part.name for part in (depth, seen) if part is not None} - {image.name}
        if others:
            raise ValueError(f"picture {image.name} beside depth or features of {others.pop()}")
        photo = photo_of(image, depth, self.max_side_px)
        view = lift_view(seen, ViewGeometry(camera=seen.camera, depth_m=None, name=image.name))
        depth_m = torch.zeros(photo.camera.hw)
        if photo.depth_m is not None:
            depth_m = photo.depth_m.where(photo.depth_m.isfinite() & (photo.depth_m > 0), depth_m)
        inside = torch.ones_like(depth_m, dtype=torch.bool) if photo.valid is None else photo.valid
        if photo.depth_m is not None:
            inside = inside & (depth_m > 0)
        return Frame(
            rgb=photo.rgb.float(),
            depth_m=depth_m.float(),
            inside=inside,
            camera=photo.camera,
            rows=view.rows.float(),
            valid=seen.valid,
            weight=seen.weight.float(),
            taps=view_taps(view, photo.camera),
        )
