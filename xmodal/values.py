"""Values: what flows along an edge of the graph.

Frozen dataclasses. A value with features exposes `rows [M, C]`, `valid [M]` and `weight [M]`, so
that each loss is written once for every modality. Values of one sensor over several views come as
`Views`, a lazy sequence of single-view values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from lifting.cameras import Camera
from lifting.operator import LiftOperator

T = TypeVar("T", covariant=True)
Views = Sequence[T]


@dataclass(frozen=True, kw_only=True, eq=False)
class Image:
    """One colour view: `rgb` in [0, 1], and the camera that took it."""

    rgb: Float[Tensor, "3 H W"]
    camera: Camera
    name: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Depth:
    """One depth view: z-depth in metres, 0 where the sensor gave no reading."""

    depth_m: Float[Tensor, "H W"]
    camera: Camera
    name: str


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureMap:
    """A teacher's patch features of one view; rows in row-major order over a grid `grid_hw`.

    The grid covers the whole image of `camera`; it is never up-sampled.
    """

    rows: Float[Tensor, "M C"]
    valid: Bool[Tensor, " M"]
    weight: Float[Tensor, " M"]
    grid_hw: tuple[int, int]
    camera: Camera
    name: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Masks:
    """A teacher's mask features of one view.

    `membership` has one row per pixel of a grid `grid_hw` that covers the image of `camera`
    (row-major) and one column per mask; masks may overlap. Masks are never painted dense.
    """

    rows: Float[Tensor, "M C"]
    valid: Bool[Tensor, " M"]
    weight: Float[Tensor, " M"]
    membership: LiftOperator
    grid_hw: tuple[int, int]
    camera: Camera
    name: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Points:
    """Points in the world frame, metres, with or without features.

    Samples are concatenated; `offsets [B + 1]` marks them. `weight` is coverage (sum of lift
    weights) and `valid` is False where nothing was observed. `segments` says which super-point or
    3D mask a point belongs to, -1 for none. `masked` is True where a student did not get to see the
    point's inputs.
    """

    xyz: Float[Tensor, "M 3"]
    offsets: Int[Tensor, " B1"]
    rgb: Float[Tensor, "M 3"] | None = None
    normals: Float[Tensor, "M 3"] | None = None
    rows: Float[Tensor, "M C"] | None = None
    valid: Bool[Tensor, " M"] | None = None
    weight: Float[Tensor, " M"] | None = None
    num_views: Int[Tensor, " M"] | None = None
    disagreement: Float[Tensor, " M"] | None = None
    segments: Int[Tensor, " M"] | None = None
    masked: Bool[Tensor, " M"] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class PointSets:
    """Sets of points of one cloud, each with one feature row; a point may be in many sets or none.

    A 2D mask seen in 3D, the part of a scene that one view shows, a thing that a caption tells of.
    `membership` has one row per set and one column per point of the cloud, with raw weights.
    Sets that belong together, like pixels of one mask, have one number in `groups`, counted over
    all views; -1 is none. `views` says which view shows a set.
    """

    rows: Float[Tensor, "M C"]
    valid: Bool[Tensor, " M"]
    weight: Float[Tensor, " M"]
    membership: LiftOperator
    groups: Int[Tensor, " M"] | None = None
    views: Int[Tensor, " M"] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Labels:
    """Class of every point of a cloud, or recording: an index into `classes`, -1 if unknown."""

    ids: Int[Tensor, " N"]
    classes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Voxels:
    """Occupied cells of a regular grid in the world frame.

    Cell `c` covers `[c, c + 1) * voxel_m` along each axis, so its centre is `(c + 0.5) * voxel_m`.
    """

    coords: Int[Tensor, "M 3"]
    voxel_m: float
    offsets: Int[Tensor, " B1"]
    rows: Float[Tensor, "M C"] | None = None
    valid: Bool[Tensor, " M"] | None = None
    weight: Float[Tensor, " M"] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Bev:
    """A square bird's-eye grid around the ego vehicle, x forward and y left, metres.

    It covers [-range_m, range_m) on both axes in cells of `cell_m`. Rows are all cells of all
    samples, x-major (`row = x * Y + y` within a sample); a cell that nothing reached is not valid.
    """

    range_m: float
    cell_m: float
    offsets: Int[Tensor, " B1"]
    rows: Float[Tensor, "M C"]
    valid: Bool[Tensor, " M"]
    weight: Float[Tensor, " M"]
    T_world_ego: Float[Tensor, "B 4 4"] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Gaussians:
    """A splat scene in the world frame, in gsplat's words.

    Attributes:
        means: Centres, metres.
        quats: Quaternions, w x y z.
        scales: Standard deviations along the axes, metres (not their logarithm).
        opacities: In [0, 1] (not logits).
        offsets: Where each scene starts.
        sh: Colour as spherical harmonics; see `lifting.gaussians.splats.Splats`.
        rows: Features, one row per splat.
        valid: False where no view shows the splat.
        weight: Coverage: the sum of its shares in the pixels of all views.
        num_views: Views that it has a share in.
        disagreement: How much the views differ about it, 0 to 1.
        segments: Thing or patch that a splat belongs to, -1 for none.
        masked: True where a student did not get to see the splat's inputs.
    """

    means: Float[Tensor, "M 3"]
    quats: Float[Tensor, "M 4"]
    scales: Float[Tensor, "M 3"]
    opacities: Float[Tensor, " M"]
    offsets: Int[Tensor, " B1"]
    sh: Float[Tensor, "M K 3"] | None = None
    rows: Float[Tensor, "M C"] | None = None
    valid: Bool[Tensor, " M"] | None = None
    weight: Float[Tensor, " M"] | None = None
    num_views: Int[Tensor, " M"] | None = None
    disagreement: Float[Tensor, " M"] | None = None
    segments: Int[Tensor, " M"] | None = None
    masked: Bool[Tensor, " M"] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Frames:
    """Small posed pictures kept in memory, to compare renderings with.

    Pixels of all views stand one after another, each view row by row, seen through ideal lenses.
    What a teacher saw in them stays patches or masks, view after view.

    Attributes:
        rgb: Colours in [0, 1].
        depth_m: z-depth, metres; 0 where there is no reading.
        inside: Pixels that are compared. Undistortion leaves a border, and of frames with depth
            those without a reading say nothing that a cloud made of the readings could show.
        hw: Height and width of every view, pixels.
        K: Intrinsics of every view, pixels.
        T_world_cam: Pose of every view, camera to world, metres.
        rows: The teacher's rows of all views.
        valid: Rows that say something.
        weight: How much a row counts.
        offsets: Where the rows of each view begin.
        taps: What the pixels read of the rows, [pixels x rows]; see `view_taps` of
            `lifting.gaussians.teacher_views`.
    """

    rgb: Float[Tensor, "N 3"]
    depth_m: Float[Tensor, " N"]
    inside: Bool[Tensor, " N"]
    hw: Int[Tensor, "V 2"]
    K: Float[Tensor, "V 3 3"]
    T_world_cam: Float[Tensor, "V 4 4"]
    rows: Float[Tensor, "M C"]
    valid: Bool[Tensor, " M"]
    weight: Float[Tensor, " M"]
    offsets: Int[Tensor, " V1"]
    taps: LiftOperator

    def __len__(self) -> int:
        return len(self.hw)


@dataclass(frozen=True, kw_only=True, eq=False)
class Audio:
    """Recorded sound: amplitudes in [-1, 1], samples of all recordings concatenated in time.

    `start_s` is the time of the first sample of each recording, seconds on the scene's clock.
    """

    amplitudes: Float[Tensor, "mics N"]
    rate_hz: float
    offsets: Int[Tensor, " B1"]
    start_s: Float[Tensor, " B"] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Imu:
    """Inertial readings in the `imu` frame; `accel_mps2` includes gravity."""

    accel_mps2: Float[Tensor, "N 3"]
    gyro_radps: Float[Tensor, "N 3"]
    time_s: Float[Tensor, " N"]
    offsets: Int[Tensor, " B1"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Skeleton:
    """Joints of one person over time, metres in the camera's frame, NaN where not tracked."""

    joints_m: Float[Tensor, "N J 3"]
    time_s: Float[Tensor, " N"]
    offsets: Int[Tensor, " B1"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Video:
    """Frames of films, one after the other: `rgb` in 0..255, and when each frame was shown."""

    rgb: UInt8[Tensor, "N 3 H W"]
    time_s: Float[Tensor, " N"]
    offsets: Int[Tensor, " B1"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Grids:
    """One dense map for each sample: a depth panorama, classes of its pixels, a floor plan.

    Rows are the cells of all samples, row-major over `grid_hw` within a sample. `maps` are what the
    layers of a student's network gave on the way, one map a sample, for losses that ask for them.
    """

    rows: Float[Tensor, "M C"]
    valid: Bool[Tensor, " M"]
    weight: Float[Tensor, " M"]
    grid_hw: tuple[int, int]
    offsets: Int[Tensor, " B1"]
    maps: tuple[Float[Tensor, "B _ ..."], ...] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Embedding:
    """One feature row for each sample, or for each window `time_s` (start, end; seconds)."""

    rows: Float[Tensor, "M C"]
    valid: Bool[Tensor, " M"]
    weight: Float[Tensor, " M"]
    offsets: Int[Tensor, " B1"]
    time_s: Float[Tensor, "M 2"] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Boxes:
    """Oriented boxes: `T_world_box` puts the centre at the origin of the box, axes along its sides.

    `label` indexes `names`; `size_m` is the full extent along the axes of the box.
    """

    T_world_box: Float[Tensor, "M 4 4"]
    size_m: Float[Tensor, "M 3"]
    label: Int[Tensor, " M"]
    names: tuple[str, ...]
    offsets: Int[Tensor, " B1"]
    score: Float[Tensor, " M"] | None = None


@dataclass(frozen=True, kw_only=True)
class Text:
    """Captions or queries, one for each sample."""

    texts: tuple[str, ...]


Value = (
    Image
    | Depth
    | FeatureMap
    | Masks
    | Points
    | PointSets
    | Labels
    | Voxels
    | Bev
    | Gaussians
    | Frames
    | Audio
    | Imu
    | Skeleton
    | Video
    | Grids
    | Embedding
    | Boxes
    | Text
)
