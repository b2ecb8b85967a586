"""Per-point values seen from a posed frame, and pictures of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy.spatial import KDTree

from lifting.cameras import Camera, scale_camera, unproject
from lifting.visibility import zbuffer
from xmodal.atomic import atomic_path
from xmodal.values import Depth

FloatImage = npt.NDArray[np.float32]
# Red, green and blue of what was not observed.
UNSEEN_GREY = 60


@dataclass(frozen=True)
class PointRenderer:
    """Renders scores of a fixed cloud into posed frames.

    A pixel shows the nearest point of the cloud to the surface that the pixel sees. The surface
    comes from the frame's depth map or, without one, from a z-buffer of the cloud itself.

    Attributes:
        tree: k-d tree over the cloud, metres.
        reach_m: A surface farther than this from every point shows nothing (NaN).
        stride: One value is computed for every `stride` x `stride` block of colour pixels.
    """

    tree: KDTree
    reach_m: float
    stride: int = 2

    @staticmethod
    def of(xyz: npt.NDArray[np.float32], *, stride: int = 2) -> PointRenderer:
        """Build a renderer whose reach is twice the typical spacing of the points."""
        tree = KDTree(xyz)
        return PointRenderer(tree, reach_m=2.0 * point_spacing(xyz, tree), stride=stride)

    def pixel_points(self, camera: Camera, depth: Depth | None) -> npt.NDArray[np.int64]:
        """Index of the point that each block of pixels shows, -1 where there is none.

        Args:
            camera: Camera of the colour frame that is rendered.
            depth: Depth map of the same frame; its camera may have another resolution.

        Returns:
            Array `[H / stride, W / stride]` over the colour image.
        """
        hw = (camera.hw[0] // self.stride, camera.hw[1] // self.stride)
        small = scale_camera(camera, hw)
        rows, cols = np.mgrid[: hw[0], : hw[1]]
        uv = torch.from_numpy(np.stack([cols, rows], -1).reshape(-1, 2).astype(np.float32) + 0.5)
        if depth is None:
            cloud = torch.from_numpy(np.ascontiguousarray(self.tree.data, dtype=np.float32))
            depth_m = zbuffer(cloud, small, radius_m=self.reach_m / 2).depth_m.reshape(-1)
        else:
            depth_m = depth_at(uv, small, depth)
        seen = depth_m > 0
        xyz = unproject(uv[seen], depth_m[seen], small).numpy()
        distance, index = self.tree.query(xyz, distance_upper_bound=self.reach_m, workers=-1)
        found = np.where(np.isfinite(distance), index, -1)
        out = np.full(hw[0] * hw[1], -1, dtype=np.int64)
        out[seen.numpy()] = found
        return out.reshape(hw)

    def render(
        self, values: npt.NDArray[np.float32], camera: Camera, depth: Depth | None
    ) -> FloatImage:
        """Values `[N]` (or `[N, K]`) as an image over the colour frame, NaN where nothing shows."""
        index = self.pixel_points(camera, depth)
        image = np.asarray(values, dtype=np.float32)[np.maximum(index, 0)]
        image[index < 0] = np.nan
        return image


def point_spacing(xyz: npt.NDArray[np.float32], tree: KDTree | None = None) -> float:
    """Median distance to the nearest neighbour, metres, from at most 4,000 points."""
    if len(xyz) < 2:
        return 0.01
    sample = xyz[:: max(1, len(xyz) // 4000)]
    distance = np.asarray((tree or KDTree(xyz)).query(sample, k=2)[0])[:, 1]
    return float(np.median(distance)) or 0.01


def depth_at(uv: torch.Tensor, small: Camera, depth: Depth) -> torch.Tensor:
    """Depth-map values at pixels of `small`, by the ratio of the two cameras' intrinsics.

    Colour and depth are taken to share one optical centre, as every posed RGB-D folder does.
    """
    ray = (uv - small.K[:2, 2]) / torch.stack([small.K[0, 0], small.K[1, 1]])
    K = depth.camera.K
    at = ray * torch.stack([K[0, 0], K[1, 1]]) + K[:2, 2]
    col, row = at.floor().long().unbind(-1)
    h, w = depth.depth_m.shape
    inside = (col >= 0) & (col < w) & (row >= 0) & (row < h)
    found = depth.depth_m[row.clamp(0, h - 1), col.clamp(0, w - 1)]
    return torch.where(inside, found, torch.zeros_like(found))


def peak_pixel(image: FloatImage, hw: tuple[int, int]) -> tuple[float, float] | None:
    """The pixel (u, v) of highest value in coordinates of a colour image `hw`; None if all NaN."""
    if not np.isfinite(image).any():
        return None
    row, col = divmod(int(np.nanargmax(image)), image.shape[1])
    return (col + 0.5) * hw[1] / image.shape[1], (row + 0.5) * hw[0] / image.shape[0]


def heat(values: FloatImage, *, top: float | None = None) -> npt.NDArray[np.uint8]:
    """Colour values in [0, top] with the perceptually uniform map `inferno`; NaN is grey."""
    from matplotlib import colormaps

    limit = top if top is not None else float(np.nanmax(values, initial=0.0))
    scaled = np.clip(values / (limit or 1.0), 0, 1)
    colour = (colormaps["inferno"](np.nan_to_num(scaled))[..., :3] * 255).astype(np.uint8)
    colour[~np.isfinite(values)] = UNSEEN_GREY
    return colour


def overlay(rgb: npt.NDArray[np.uint8], values: FloatImage) -> npt.NDArray[np.uint8]:
    """A frame with relevancy painted over it; the frame shows through where relevancy is low."""
    from PIL import Image as PilImage

    h, w = rgb.shape[:2]
    top = float(np.nanmax(values, initial=0.0)) or 1.0
    strength = np.nan_to_num(np.clip(values / top, 0, 1)) ** 1.5
    paint = PilImage.fromarray(heat(values)).resize((w, h), PilImage.Resampling.BILINEAR)
    alpha = PilImage.fromarray((strength * 255).astype(np.uint8)).resize((w, h))
    share = np.asarray(alpha, dtype=np.float32)[..., None] / 255 * 0.85
    grey = rgb.astype(np.float32).mean(-1, keepdims=True).repeat(3, -1) * 0.8
    return (grey * (1 - share) + np.asarray(paint, dtype=np.float32) * share).astype(np.uint8)


def write_picture(path: Path, rgb: npt.NDArray[np.uint8]) -> None:
    """Write an RGB picture `[H, W, 3]` as PNG, atomically."""
    from PIL import Image as PilImage

    with atomic_path(path) as temporary:
        PilImage.fromarray(rgb).save(temporary, format="PNG")
