"""First points of a fit from photos alone: depths at which neighbouring photos look alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample

from lifting.cameras import Camera, pixel_centres, project, unproject
from lifting.gaussians.initialise import viewed_depths_m
from lifting.gaussians.photos import Photo

# Side of the patches that are compared, pixels of the reduced photos.
_WINDOW = 5
# Patches of less contrast (standard deviation of grey, in [0, 1]) look alike at any depth.
_LEAST_CONTRAST = 0.01
# Two photos agree on a point whose depths differ by less than this share.
_SAME_DEPTH = 0.05
# Cameras that look farther apart than this show other sides of things.
_LEAST_COSINE = math.cos(math.radians(50))


@dataclass(frozen=True, kw_only=True)
class PlaneSweep:
    """Settings of a sweep.

    Attributes:
        max_side_px: Photos are reduced by a whole number until they are at most this large.
        num_depths: Depths that are tried, evenly in inverse depth.
        num_neighbours: Photos that each is compared with.
        least_score: Correlation of patches from which on a depth counts, in [0, 1].
        depth_range_m: Nearest and farthest z-depth; by default where the cameras look.

    Raises:
        ValueError: If a number is out of range.
    """

    max_side_px: int = 96
    num_depths: int = 64
    num_neighbours: int = 4
    least_score: float = 0.6
    depth_range_m: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.max_side_px < 2 * _WINDOW or self.num_depths < 3 or self.num_neighbours < 1:
            raise ValueError(
                f"a sweep needs max_side_px >= {2 * _WINDOW}, num_depths >= 3 and num_neighbours "
                f">= 1, got {self.max_side_px}, {self.num_depths} and {self.num_neighbours}"
            )
        if not 0 <= self.least_score < 1:
            raise ValueError(f"least_score must be in [0, 1), got {self.least_score}")
        if self.depth_range_m is not None:
            near_m, far_m = self.depth_range_m
            if not (0 < near_m < far_m and math.isfinite(far_m)):
                raise ValueError(f"depth_range_m must be 0 < near < far, got {near_m}, {far_m}")


def swept_points(
    photos: Sequence[Photo], settings: PlaneSweep | None = None
) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "N 3"]]:
    """Points where photos with poses agree, and their colours.

    Each photo is compared with neighbours at many depths by the correlation of small patches; the
    best depth of a pixel is kept where it is good enough and a neighbour found the same place.

    Args:
        photos: At least two, with overlap.
        settings: How.

    Returns:
        World coordinates in metres and colours in [0, 1], photo by photo. A place that several
        photos see is there several times; where nothing has texture there is no point.

    Raises:
        ValueError: If there are fewer than two photos.

    Source:
        Collins, A space-sweep approach to true multi-image matching, CVPR 1996; the check between
        depth maps as in Schoenberger et al., Pixelwise view selection, ECCV 2016.
    """
    settings = settings or PlaneSweep()
    if len(photos) < 2:
        raise ValueError(f"a sweep needs at least two photos, got {len(photos)}")
    longest = max(max(photo.camera.hw) for photo in photos)
    small = [photo.reduced(math.ceil(longest / settings.max_side_px)) for photo in photos]
    cameras = [photo.camera for photo in small]
    near_m, far_m = settings.depth_range_m or viewed_depths_m(cameras, torch.Generator())
    inverse = torch.linspace(1 / far_m, 1 / near_m, settings.num_depths)
    grey = [photo.rgb.detach().cpu().float().mean(0) for photo in small]
    neighbours = [_neighbours(index, cameras, settings) for index in range(len(small))]
    depths = [
        _best_depth(index, neighbours[index], grey, cameras, inverse, settings.least_score)
        for index in range(len(small))
    ]
    xyz: list[Tensor] = []
    rgb: list[Tensor] = []
    for index, photo in enumerate(small):
        found = depths[index] > 0
        if photo.valid is not None:
            found &= photo.valid.cpu()
        pixels = found.flatten().nonzero().squeeze(1)
        depth_m = depths[index].flatten()[pixels]
        points = unproject(pixel_centres(photo.camera.hw)[pixels], depth_m, photo.camera)
        kept = _confirmed(points, neighbours[index], depths, cameras)
        xyz.append(points[kept])
        rgb.append(photo.rgb.detach().cpu().float().flatten(1).T[pixels[kept]])
    return torch.cat(xyz), torch.cat(rgb)


def _neighbours(index: int, cameras: Sequence[Camera], settings: PlaneSweep) -> list[int]:
    """Cameras that look the same way, near ones and farther ones."""
    poses = torch.stack([camera.T_world_cam.double() for camera in cameras])
    alike = (poses[:, :3, 2] * poses[index, :3, 2]).sum(1) > _LEAST_COSINE
    distance = torch.linalg.vector_norm(poses[:, :3, 3] - poses[index, :3, 3], dim=1)
    # Cameras at one place see no depth.
    usable = alike & (distance > 0)
    order = [i for i in torch.argsort(distance, stable=True).tolist() if bool(usable[i])]
    # Every second of the nearest: the closest ones alone tell depths badly apart.
    spread = order[1 : 2 * settings.num_neighbours : 2]
    return spread if len(spread) == settings.num_neighbours else order[: settings.num_neighbours]


def _best_depth(
    index: int,
    neighbours: Sequence[int],
    grey: Sequence[Tensor],
    cameras: Sequence[Camera],
    inverse: Tensor,
    least_score: float,
) -> Tensor:
    """z-depth of each pixel by correlation with the neighbours; 0 where none is good enough."""
    here = grey[index]
    scores = [
        _correlations(here, grey[other], cameras[index], cameras[other], inverse)
        for other in neighbours
    ]
    if not scores:
        return torch.zeros_like(here)
    # The better half: in the other photos something may stand in the way.
    best = torch.stack(scores).topk((len(scores) + 1) // 2, dim=0).values.mean(0)
    top, at = best.max(0)
    at_inner = at.clamp(1, len(inverse) - 2)
    left, middle, right = (best.gather(0, (at_inner + shift)[None])[0] for shift in (-1, 0, 1))
    bend = left - 2 * middle + right
    # The summit of the parabola through three samples; none at the ends of the range.
    peak = (bend < 0) & (at == at_inner)
    shift = 0.5 * (left - right) / bend.where(peak, torch.ones_like(bend))
    step = inverse[1] - inverse[0]
    depth_m = 1 / (inverse[at] + step * shift.clamp(-0.5, 0.5))
    return depth_m * (peak & (top >= least_score))


def _correlations(
    here: Tensor, there: Tensor, camera: Camera, other: Camera, inverse: Tensor
) -> Tensor:
    """Correlation in [-1, 1] of the patches around each pixel at each inverse depth, [D, H, W]."""
    grid, inside = _seen_at(camera, other, inverse)
    count, (height, width) = len(inverse), camera.hw
    # All depths below each other in one image.
    warped = grid_sample(
        there[None, None], grid.view(1, count * height, width, 2), align_corners=False
    ).view(count, 1, height, width)
    patch = here[None, None]
    mean_here, mean_there = _pool(patch), _pool(warped)
    spread_here = _pool(patch * patch) - mean_here**2
    spread_there = _pool(warped * warped) - mean_there**2
    shared = _pool(patch * warped) - mean_here * mean_there
    least = _LEAST_CONTRAST**2
    score = shared / (spread_here.clamp(min=least) * spread_there.clamp(min=least)).sqrt()
    usable = inside & (spread_here > least)[:, 0]
    return score[:, 0].where(usable, torch.full_like(score[:, 0], -1.0))


def _seen_at(camera: Camera, other: Camera, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Where `other` sees the pixels of `camera` at each inverse depth, for `grid_sample`."""
    between = torch.linalg.inv(other.T_world_cam.double()) @ camera.T_world_cam.double()
    K, K_other = camera.K.double(), other.K.double()
    pixels = pixel_centres(camera.hw, dtype=torch.float64)
    pixels = torch.cat((pixels, torch.ones_like(pixels[:, :1])), 1)
    turned = (pixels @ (K_other @ between[:3, :3] @ torch.linalg.inv(K)).T).float()
    moved = (K_other @ between[:3, 3]).float()
    # A point at inverse depth w is (turned + w moved) / w: the scale does not matter.
    seen = turned[None] + inverse[:, None, None] * moved
    z = seen[..., 2]
    uv = seen[..., :2] / z.where(z > 0, torch.ones_like(z))[..., None]
    grid = 2 * uv / uv.new_tensor((other.hw[1], other.hw[0])) - 1
    inside = ((grid.abs() < 1).all(-1) & (z > 0)).view(-1, *camera.hw)
    return grid, inside


def _pool(image: Tensor) -> Tensor:
    return avg_pool2d(image, _WINDOW, stride=1, padding=_WINDOW // 2, count_include_pad=False)


def _confirmed(
    points: Tensor, neighbours: Sequence[int], depths: Sequence[Tensor], cameras: Sequence[Camera]
) -> Tensor:
    """Which points lie where the depth map of at least one neighbour has them."""
    agreed = torch.zeros(len(points), dtype=torch.bool)
    for other in neighbours:
        image = project(points, cameras[other])
        column, row = image.uv.long().clamp(min=0).unbind(1)
        height, width = cameras[other].hw
        found = depths[other][row.clamp(max=height - 1), column.clamp(max=width - 1)]
        near = (found - image.depth_m).abs() < _SAME_DEPTH * image.depth_m
        agreed |= image.in_image & near
    return agreed
