"""The op `segment_crops`: describe each 3D segment by crops of the views that see it best."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from xmodal.edges.lift.settings import check_margin
from xmodal.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from lifting.operator import LiftOperator
    from lifting.visibility import VisiblePoints
    from xmodal.teachers.teacher import Teacher
    from xmodal.values import Depth, Image, Points, Views


class Crop(NamedTuple):
    """A part of a view that shows a segment.

    Attributes:
        segment: The segment.
        view: Index of the view.
        box_px: Left, top, right and bottom in whole pixels; within the image.
    """

    segment: int
    view: int
    box_px: tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class SegmentCrops:
    """Masks first, then crops: a frozen network sees each 3D segment cut out of its best views.

    Every point of a segment gets the same row: the mean over crops. A network that describes whole
    pictures well sees things as a whole here, not patch by patch; what the segments miss is lost.

    Attributes:
        frozen: Always true: a teacher does not learn.
        model: `imagenet`: class probabilities, asked with any words as `embedded` is.
        views_per_segment: How many views each segment is cut from: those that see most of it.
        scales: Sides of the crops, as multiples of the box around the segment's visible points.
        min_points: Views that see fewer points of a segment are not used for it.
        margin_m: How far a point may lie from a depth reading beside the sensor's noise, metres.

    Source:
        Takmaz et al., OpenMask3D, NeurIPS 2023, section 3.3.
    """

    op: Literal["segment_crops"] = "segment_crops"
    frozen: Literal[True] = True
    model: Literal["imagenet"] = "imagenet"
    views_per_segment: int = 5
    scales: tuple[float, ...] = (1.0, 1.5, 2.0)
    min_points: int = 10
    margin_m: float = 0.03

    channels: ClassVar[int] = 1000
    space: ClassVar[str] = "simplex"

    def __post_init__(self) -> None:
        check_margin(self.margin_m, self.min_points)
        if self.views_per_segment < 1:
            raise ValueError(f"views_per_segment must be 1 or more, not {self.views_per_segment}")
        if not self.scales or not all(0.5 <= scale <= 8 for scale in self.scales):
            raise ValueError(f"scales must be one or more numbers from 0.5 to 8, not {self.scales}")

    def teacher(self) -> Teacher:
        """The frozen network; its weights are read when the first crop arrives."""
        from xmodal.teachers.embedded import EmbeddedTeacher

        return EmbeddedTeacher()

    def __call__(
        self,
        teacher: Teacher,
        cameras: Views[Image],
        depth: Views[Depth] | None,
        cloud: Points,
    ) -> Points:
        """The cloud with the row of its segment at every point.

        Args:
            teacher: Describes crops (`encode_image`).
            cameras: The views; each is read twice at most, one at a time.
            depth: Depth of the same frames, or None: then the points hide each other.
            cloud: The points of one scene, with `segments`.

        Raises:
            DataError: If the cloud has no segments or several scenes, frames and depth do not
                match, or no view sees any segment.
        """
        import torch

        from lifting.operator import LiftOperator

        segments = _segments_of(cloud, cameras)
        crops = list(self.crops(cameras, depth, cloud))
        if not crops:
            raise DataError(
                "lift crops of segments",
                wanted=f"a view that sees {self.min_points} points of a segment",
                got=f"none among {len(cameras)} views",
                fix="check poses and depth, or lower min_points",
            )
        rows = torch.stack(list(_describe(teacher, cameras, crops)))
        num_segments = int(segments.max()) + 1
        of_segment = LiftOperator.from_coo(
            torch.tensor([crop.segment for crop in crops]),
            torch.arange(len(crops)),
            torch.ones(len(crops)),
            shape=(num_segments, len(crops)),
        )
        # Averages per segment first: there are a thousand times fewer of them than of points.
        lifted = of_segment.lift(rows)
        means = lifted.rows
        if teacher.space == "unit":
            means = torch.nn.functional.normalize(means, dim=1)
        member = segments >= 0
        of_point = segments.clamp_min(0)
        of_points = means[of_point]
        of_points[~member] = 0
        return replace(
            cloud,
            rows=of_points,
            valid=lifted.valid[of_point] & member,
            weight=lifted.weight[of_point] * member / len(self.scales),
            num_views=_num_views(crops, segments, num_segments),
            disagreement=lifted.disagreement[of_point] * member,
        )

    def crops(
        self, cameras: Views[Image], depth: Views[Depth] | None, cloud: Points
    ) -> Iterator[Crop]:
        """Where each segment is cut out, view after view; all scales of a view beside each other.

        Raises:
            DataError: As the call.
        """
        import torch

        from lifting.points import segment_operator

        segments = _segments_of(cloud, cameras)
        members = segment_operator(segments)
        counts: list[Tensor] = []
        boxes: list[Tensor] = []
        for seen in _sights(cameras, depth, cloud, self.margin_m):
            count, box = _boxes_of(members, seen)
            counts.append(count)
            boxes.append(box)
        num_seen = torch.stack(counts, dim=1)
        # Stable: of views that see equally much, the first ones.
        best = num_seen.sort(dim=1, descending=True, stable=True).indices
        chosen = torch.zeros_like(num_seen, dtype=torch.bool)
        chosen.scatter_(1, best[:, : self.views_per_segment], True)
        chosen &= num_seen >= self.min_points
        for view in range(len(cameras)):
            here = chosen[:, view].nonzero().squeeze(1).tolist()
            height, width = cameras[view].camera.hw if here else (0, 0)
            for segment in here:
                for scale in self.scales:
                    box = _scaled(boxes[view][segment].tolist(), scale, height, width)
                    yield Crop(segment, view, box)


def _num_views(crops: list[Crop], segments: Tensor, num_segments: int) -> Tensor:
    """How many views each point's segment was cut from."""
    import torch

    of_segment = torch.zeros(num_segments + 1, dtype=torch.int64)
    for segment, _ in {(crop.segment, crop.view) for crop in crops}:
        of_segment[segment] += 1
    return of_segment[segments]  # -1 finds the last entry, which stays 0


def _segments_of(cloud: Points, cameras: Views[Image]) -> Tensor:
    from xmodal.edges.lift.view_lifts import one_scene

    one_scene(cloud, "lift crops of segments")
    if cloud.segments is None or not len(cameras):
        raise DataError(
            "lift crops of segments",
            wanted="a cloud with segments, and at least one frame",
            got="a cloud without segments" if len(cameras) else "no frames",
            fix="make segments first: `maps, depth, cloud -> things: {op: instances}`"
            if len(cameras)
            else "check the scene's folder, or raise --max-frames",
        )
    return cloud.segments.long()


def _sights(
    cameras: Views[Image], depth: Views[Depth] | None, cloud: Points, margin_m: float
) -> Iterator[VisiblePoints]:
    """What each view sees of the cloud."""
    from lifting.views import ViewGeometry
    from xmodal.edges.lift.view_lifts import Occlusion, membership_lift

    if depth is not None and len(depth) != len(cameras):
        raise _other_frames("frames", f"{len(cameras)} depth maps", f"{len(depth)} of them")
    occlusion = Occlusion(cloud, membership_lift(margin_m))
    for index in range(len(cameras)):
        image = cameras[index]
        reading = None if depth is None else depth[index]
        if reading is not None and reading.name != image.name:
            where, got = f"frame {image.name}", f"depth of frame {reading.name}"
            raise _other_frames(where, "depth of the same frame", got)
        yield occlusion.see(
            ViewGeometry(
                camera=image.camera,
                depth_m=None if reading is None else reading.depth_m,
                depth_camera=None if reading is None else reading.camera,
                name=image.name,
            )
        )


def _other_frames(where: str, wanted: str, got: str) -> DataError:
    fix = "give both sensors the same frames in the same order, or leave depth away"
    return DataError(where, wanted=wanted, got=got, fix=fix)


def _boxes_of(members: LiftOperator, seen: VisiblePoints) -> tuple[Tensor, Tensor]:
    """How many points of each segment a view sees, and the box around them in pixels."""
    import torch

    num = members.num_targets
    owner = torch.full((members.num_sources,), -1, dtype=torch.int64)
    owner[members.col] = members.row
    of_point = owner[seen.index]
    inside = of_point >= 0
    of_point, uv = of_point[inside], seen.uv[inside].float()
    low = torch.full((num, 2), torch.inf)
    high = torch.full((num, 2), -torch.inf)
    wide = of_point[:, None].expand(-1, 2)
    low.scatter_reduce_(0, wide, uv, "amin")
    high.scatter_reduce_(0, wide, uv, "amax")
    return torch.bincount(of_point, minlength=num), torch.cat([low, high], dim=1)


def _scaled(box: list[float], scale: float, height: int, width: int) -> tuple[int, int, int, int]:
    """A box grown about its middle, in whole pixels, at least one pixel, within the image."""
    from math import ceil, floor

    left, top, right, bottom = box
    grow_x, grow_y = (scale - 1) * (right - left) / 2, (scale - 1) * (bottom - top) / 2
    x0, y0 = max(0, floor(left - grow_x)), max(0, floor(top - grow_y))
    x1, y1 = min(width, ceil(right + grow_x)), min(height, ceil(bottom + grow_y))
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)


def _describe(teacher: Teacher, cameras: Views[Image], crops: list[Crop]) -> Iterator[Tensor]:
    """The teacher's row of each crop; an image is kept while its crops follow each other."""
    image: Image | None = None
    at = -1
    for crop in crops:
        if image is None or crop.view != at:
            image, at = cameras[crop.view], crop.view
        x0, y0, x1, y1 = crop.box_px
        # The camera stays that of the whole view: a teacher looks at colours alone here.
        part = replace(image, rgb=image.rgb[:, y0:y1, x0:x1].contiguous())
        yield teacher.encode_image(part)
