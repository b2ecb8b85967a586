"""The op `fit_splats`: a scene of splats from its pictures, and its points where there are any."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from xmodal.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from lifting.gaussians.fit_options import FitOptions
    from lifting.gaussians.photos import Photo
    from lifting.gaussians.splats import Splats
    from xmodal.values import Depth, Gaussians, Image, Points, Views

    # Places, colours and normals of points.
    _Rows = tuple[Tensor, Tensor | None, Tensor | None]

_NO_POINTS = "a scene of pictures without depth and without points"
_RANDOM_SIZE = 0.5
# Photos are straightened at most this many times as large as they are shown.
_STRAIGHTEN = 8
# A sweep beside a cloud looks a little nearer and farther than nearly all of the points lie.
_NEARER, _FARTHER = 0.8, 1.5
_NEARLY_ALL = (0.01, 0.99)
# Fewer points in the pictures say nothing about the range of depth.
_FEW_POINTS = 50


@dataclass(frozen=True, kw_only=True)
class FitSplats:
    """Make splats that look like the pictures.

    Of an RGB-D cloud each point becomes a flat disc, which is a good scene already; steps make it a
    better one. Without points they start where neighbouring photos agree, or at random. The few
    points of structure from motion need both, and a fit.

    Attributes:
        start: From the `cloud`; of photos alone, where neighbouring ones look alike (`sweep`), or
            at `random` where cameras look; `both` is the cloud with a sweep between its depths.
        num: Splats to start from: so many at random; of more points, so many of them.
        max_splats: Number that the strategy may grow to; `num` if null.
        steps: Pictures that are shown, one a step; 0 keeps the start as it is.
        strategy: What moves, adds and drops splats: `mcmc`, `densify`, or `none`.
        max_side_px: Pictures are shown at most this large.
        sh_degree: Degree of the harmonics of colour: 0 is the same from all sides.
        opacity: Of splats at the start.
        depth_weight: Weight of the depth maps beside the colours; 0 leaves them out.
        hold_out: Leave every so-manyth picture (by name) out of the fit, to test views with; none
            if null.
        seed: Of all chance.

    Source:
        Kerbl et al., 3D Gaussian Splatting for Real-Time Radiance Field Rendering, SIGGRAPH 2023;
        `mcmc`: Kheradmand et al., NeurIPS 2024.
    """

    op: Literal["fit_splats"] = "fit_splats"
    start: Literal["cloud", "sweep", "both", "random"] = "cloud"
    num: int = 20_000
    max_splats: int | None = None
    steps: int = 2000
    strategy: Literal["mcmc", "densify", "none"] = "mcmc"
    max_side_px: int = 240
    sh_degree: int = 1
    opacity: float = 0.5
    depth_weight: float = 0.0
    hold_out: int | None = None
    seed: int = 0

    # Bare splats: features come with a lift.
    gives_rows = False

    def __post_init__(self) -> None:
        for name in ("num", "max_side_px"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, not {getattr(self, name)}")
        if self.steps < 0 or (self.steps == 0 and self.start != "cloud"):
            raise ValueError(f"steps must be 1 or more (0 for start: cloud), not {self.steps}")
        if self.max_splats is not None and self.max_splats < self.num:
            raise ValueError(f"max_splats must be num ({self.num}) or more, not {self.max_splats}")
        if not 0 < self.opacity <= 1:
            raise ValueError(f"opacity must be above 0 and at most 1, not {self.opacity}")
        if self.hold_out is not None and self.hold_out < 2:
            raise ValueError(f"hold_out must be 2 or more, or null for none, not {self.hold_out}")
        self._check_effect()

    def _check_effect(self) -> None:
        idle = {"max_splats": self.max_splats, "hold_out": self.hold_out}
        unused = [name for name, value in idle.items() if value is not None]
        if self.steps == 0 and unused:
            raise ValueError(f"{unused[0]} has no effect with steps: 0; leave it out")
        if self.max_splats is not None and self.strategy == "none":
            raise ValueError("max_splats has no effect with strategy: none; leave it out")

    def __call__(
        self,
        cameras: Views[Image],
        depth: Views[Depth] | None,
        cloud: Points | None,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> Gaussians:
        """Splats of one scene, with colours and without features.

        Args:
            cameras: The pictures.
            depth: Their depth maps, for `depth_weight`.
            cloud: Points to start from, for `start: cloud` and `both`.
            progress: Called with steps done and steps in all.

        Raises:
            DataError: If there are no pictures, no points to start from, no depth for
                `depth_weight`, or the fit diverges.
        """
        from xmodal.splats.values import as_gaussians

        if self.depth_weight > 0 and depth is None:
            raise DataError(
                "fit of splats",
                wanted=f"depth maps, for depth_weight: {self.depth_weight}",
                got="pictures alone",
                fix="add depth to the arrow, or set depth_weight: 0",
            )
        try:
            photos = self._photos(cameras, depth) if self.steps else []
            splats = self._first(photos, cloud)
            if self.steps:
                splats = self._fitted(photos, splats, progress)
        except ValueError as error:
            raise DataError(
                "fit of splats",
                wanted="pictures, cameras and points that belong together",
                got=str(error),
                fix="check the part that the message names",
            ) from error
        return as_gaussians(splats)

    def _first(self, photos: list[Photo], cloud: Points | None) -> Splats:
        from lifting.gaussians.initialise import splats_at_random, splats_from_points

        found = self._points(photos, cloud)
        if found is None:
            posed = [photo.camera for photo in photos]
            splats = splats_at_random(
                posed, self.num, self.seed, opacity=self.opacity, sh_degree=self.sh_degree
            )
            # Splats drawn along rays reach their neighbours; at full size a pixel has hundreds.
            return replace(splats, scales=splats.scales * _RANDOM_SIZE)
        xyz, rgb, normals = found
        return splats_from_points(xyz, rgb, normals, opacity=self.opacity, sh_degree=self.sh_degree)

    def _points(self, photos: list[Photo], cloud: Points | None) -> _Rows | None:
        """At most `num` points with their colours and normals; None for a random start."""
        from lifting.gaussians.plane_sweep import PlaneSweep, swept_points

        if self.start == "random":
            return None
        if self.start == "sweep":
            xyz, rgb = swept_points(photos)
            if not len(xyz):
                raise ValueError("no two photos agree on a place; write start: random")
            return self._thinned((xyz, rgb, None), self.num)
        if cloud is None:
            raise DataError(
                "fit of splats",
                wanted=f"points to start from (start: {self.start})",
                got=_NO_POINTS,
                fix="add the cloud to the arrow, or write start: sweep",
            )
        given = cloud.xyz, cloud.rgb, cloud.normals
        if self.start == "cloud" or len(photos) < 2:
            return self._thinned(given, self.num)
        seen = _depth_range_m(cloud.xyz, photos)
        swept = swept_points(photos, PlaneSweep(depth_range_m=seen))
        # Points of the cloud are the surer ones; the sweep fills what they leave.
        first = self._thinned(given, max((self.num + 1) // 2, self.num - len(swept[0])))
        rest = self._thinned((*swept, None), self.num - len(first[0]))
        return _joined(first, rest)

    def _thinned(self, rows: _Rows, most: int) -> _Rows:
        """At most so many rows, by chance."""
        import torch

        if len(rows[0]) <= most:
            return rows
        chance = torch.Generator().manual_seed(self.seed)
        kept = torch.randperm(len(rows[0]), generator=chance)[:most].sort().values
        xyz, rgb, normals = (None if part is None else part[kept] for part in rows)
        assert xyz is not None, "points have places"
        return xyz, rgb, normals

    def _photos(self, cameras: Views[Image], depth: Views[Depth] | None) -> list[Photo]:
        shown = None if self.depth_weight == 0 else depth
        return [
            photo_of(cameras[i], None if shown is None else shown[i], self.max_side_px)
            for i in self.fitted(cameras)
        ]

    def _fitted(
        self,
        photos: list[Photo],
        start: Splats,
        progress: Callable[[int, int], None] | None,
    ) -> Splats:
        from lifting.gaussians.fit import fit_splats

        def report(record: object) -> None:
            if progress is not None:
                progress(getattr(record, "step", 0), self.steps)

        return fit_splats(photos, start, self.options(), report).splats

    def fitted(self, cameras: Views[Image]) -> list[int]:
        """Indices of the pictures that are shown."""
        from xmodal.datasets.photos import held_out

        if self.hold_out is None:
            return list(range(len(cameras)))
        return sorted(held_out(_names(cameras), self.hold_out)[0])

    def tested(self, cameras: Views[Image]) -> list[int]:
        """Indices of the pictures that are held out."""
        return sorted(set(range(len(cameras))) - set(self.fitted(cameras)))

    def options(self) -> FitOptions:
        """The fit as `lifting` takes it."""
        from lifting.gaussians.densify import Densify
        from lifting.gaussians.fit_options import FitOptions
        from lifting.gaussians.mcmc import Mcmc

        most = self.max_splats or self.num
        strategies = {
            "mcmc": lambda: Mcmc(max_splats=most),
            "densify": lambda: Densify(max_splats=most),
            "none": lambda: None,
        }
        return FitOptions(
            steps=self.steps,
            strategy=strategies[self.strategy](),
            sh_degree=self.sh_degree,
            sh_every=max(1, self.steps // (2 * self.sh_degree + 2)),
            depth_weight=self.depth_weight,
            seed=self.seed,
        )


def photo_of(image: Image, depth: Depth | None, max_side_px: int) -> Photo:
    """A picture as a fit sees it: through an ideal lens, at most so large.

    Raises:
        ValueError: If picture and camera do not fit each other.
    """
    from lifting.cameras import pixel_centres
    from lifting.gaussians.photos import Photo
    from xmodal.datasets.photos import resized, undistorted
    from xmodal.render import depth_at

    rgb, camera = image.rgb, image.camera
    if camera.coefficients is not None:
        # Straightening a photo of 12 megapixels takes a gigabyte; what is left of it is small.
        rgb, camera = resized(rgb, camera, _STRAIGHTEN * max_side_px)
    straight = undistorted(rgb, camera)
    rgb, camera = resized(straight.image, straight.camera, max_side_px)
    valid = None
    if not bool(straight.valid.all()):
        share, _ = resized(straight.valid[None].to(rgb), straight.camera, max_side_px)
        valid = share[0] > 1.0 - 1e-4
    depth_m = None
    if depth is not None:
        depth_m = depth_at(pixel_centres(camera.hw), camera, depth).reshape(camera.hw)
    return Photo(
        rgb=rgb.clamp(0.0, 1.0), camera=camera, depth_m=depth_m, valid=valid, name=image.name
    )


def _depth_range_m(xyz: Tensor, photos: list[Photo]) -> tuple[float, float] | None:
    """Between which depths a sweep beside these points looks; None where they are too few."""
    import torch

    from lifting.cameras import project

    seen: list[Tensor] = []
    for photo in photos:
        image = project(xyz, photo.camera)
        seen.append(image.depth_m[image.in_image].double())
    depths = torch.cat(seen)
    if len(depths) < _FEW_POINTS:
        return None
    # Picked and not interpolated: `quantile` takes no more than 2^24 numbers.
    depths = depths.sort().values
    near, far = (float(depths[int(share * (len(depths) - 1))]) for share in _NEARLY_ALL)
    return _NEARER * near, _FARTHER * far


def _joined(first: _Rows, rest: _Rows) -> _Rows:
    """Points of a cloud and of a sweep; colours grey where the cloud has none."""
    import torch

    xyz, rgb, normals = first
    swept, colours, _ = rest
    assert colours is not None, "a sweep takes colours from the photos"
    rgb = torch.full_like(xyz, 0.5) if rgb is None else rgb
    if normals is not None:
        normals = torch.cat((normals, torch.zeros_like(swept)))
    return torch.cat((xyz, swept)), torch.cat((rgb, colours)), normals


def _names(cameras: Views[Image]) -> list[str]:
    """Names of all pictures, without decoding them where the views know."""
    names = getattr(cameras, "names", None)
    return list(names) if names is not None else [image.name for image in cameras]
