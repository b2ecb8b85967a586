"""Values of splats seen from a posed frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int64

from lifting.cameras import Camera, scale_camera
from lifting.gaussians.rendering import view_operator
from lifting.gaussians.splats import Splats
from lifting.gaussians.teacher_views import drawing_camera
from lifting.operator import LiftOperator
from xmodal.render import FloatImage
from xmodal.store import Features
from xmodal.values import Depth

# A pixel shows a value where splats that have one make up at least so much of its light.
_LEAST_LIGHT = 0.5
# Of composited rows: stored rows that are read at once, and rows that are made at once.
_BLOCK_BYTES = 128 << 20
_FLOAT_BYTES = 4


@dataclass(frozen=True, eq=False)
class SplatRenderer:
    """Renders values of splats into posed frames: each pixel their mean by compositing weights.

    The drawing has an ideal lens; frames of a camera with a strong one are drawn straightened.

    Attributes:
        splats: The scene.
        stride: One value is computed for every `stride` x `stride` block of colour pixels.
    """

    splats: Splats
    stride: int = 2

    def render(
        self, values: npt.NDArray[np.float32], camera: Camera, depth: Depth | None = None
    ) -> FloatImage:
        """Values `[M]` (or `[M, K]`) as an image over the colour frame, NaN where nothing shows.

        Args:
            values: NaN for splats that were not observed.
            camera: Camera of the colour frame that is rendered.
            depth: Not needed: splats hide each other.
        """
        del depth
        given = torch.from_numpy(np.asarray(values, dtype=np.float32))
        columns = given[:, None] if given.ndim == 1 else given
        both = torch.cat((columns.nan_to_num(0.0), columns.isfinite().float()), 1)
        total, light = self._weights(camera).apply(both).chunk(2, dim=1)
        image = torch.where(light >= _LEAST_LIGHT, total / light.clamp_min(1e-6), torch.nan)
        h, w = self.size(camera)
        return image.reshape((h, w) if given.ndim == 1 else (h, w, -1)).numpy()

    def render_rows(
        self,
        features: Features,
        score: Callable[[torch.Tensor], torch.Tensor],
        camera: Camera,
    ) -> FloatImage:
        """Scores `[h, w, Q]` of what each pixel shows: rows are composited first, then asked.

        `render` draws scores of the splats; this scores what is drawn of their rows. The two differ
        where splats of different things share a pixel and the score is not linear in the row.

        Args:
            features: Rows of the splats.
            score: Scores `[M, Q]` of rows `[M, C]`.
            camera: Camera of the colour frame that is rendered.

        Returns:
            NaN where splats that were observed make up less than half the light of an opaque pixel.
        """
        weights = self._weights(camera).scale_columns(observed(features))
        shown = (weights.row_sum() >= _LEAST_LIGHT).nonzero().squeeze(1)
        parts = [(part, score(rows)) for part, rows in composited(weights, features, shown)]
        num = (
            parts[0][1].shape[1]
            if parts
            else score(torch.zeros(1, features.info.channels)).shape[1]
        )
        image = torch.full((weights.num_targets, num), torch.nan)
        for part, scores in parts:
            image[part] = scores.cpu().float()
        return image.reshape(*self.size(camera), num).numpy()

    def size(self, camera: Camera) -> tuple[int, int]:
        """Height and width of the drawing."""
        return camera.hw[0] // self.stride, camera.hw[1] // self.stride

    @torch.no_grad()
    def _weights(self, camera: Camera) -> LiftOperator:
        return view_operator(self.splats, scale_camera(drawing_camera(camera), self.size(camera)))


def observed(features: Features) -> Float[torch.Tensor, " M"]:
    """1 for every splat whose row was observed, else 0."""
    return torch.from_numpy(np.array(features.valid, dtype=np.float32))


@torch.no_grad()
def composited(
    weights: LiftOperator,
    features: Features,
    targets: Int64[torch.Tensor, " K"],
    *,
    block_bytes: int = _BLOCK_BYTES,
) -> Iterator[tuple[Int64[torch.Tensor, " k"], Float[torch.Tensor, "k C"]]]:
    """Mean of stored rows by compositing weights, a block of pixels (or sets) after another.

    A frame of a thousand channels is larger than the store of its splats; neither is ever in
    memory as a whole. A block reads only the rows of the splats that it shows.

    Args:
        weights: Pixels, or sets, x splats.
        features: Rows of the splats.
        targets: Pixels or sets that are wanted, each of some weight.
        block_bytes: Most bytes of the rows that are read for a block, and of those that it gives;
            a single pixel or set may go beyond.

    Yields:
        Some of `targets`, and their rows.
    """
    most = max(1, block_bytes // (_FLOAT_BYTES * features.info.channels))
    start = 0
    while start < len(targets):
        size = min(most, len(targets) - start)
        while True:
            part = targets[start : start + size]
            chosen = weights.select_rows(part).drop_zeros()
            used, place = chosen.col.unique(return_inverse=True)
            if len(used) <= most or size == 1:
                break
            size = max(1, min(size - 1, size * most // len(used)))
        small = LiftOperator(
            crow=chosen.crow, col=place, weight=chosen.weight, num_sources=len(used)
        )
        yield part, small.mean().apply(torch.from_numpy(features.take(used.numpy())))
        start += size
