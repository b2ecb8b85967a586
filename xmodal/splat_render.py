"""Values of splats seen from a posed frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from lifting.cameras import Camera, scale_camera
from lifting.gaussians.rendering import view_operator
from lifting.gaussians.splats import Splats
from lifting.gaussians.teacher_views import drawing_camera
from lifting.operator import LiftOperator
from xmodal.render import FloatImage
from xmodal.values import Depth

# A pixel shows a value where splats that have one make up at least so much of its light.
_LEAST_LIGHT = 0.5


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

    def size(self, camera: Camera) -> tuple[int, int]:
        """Height and width of the drawing."""
        return camera.hw[0] // self.stride, camera.hw[1] // self.stride

    @torch.no_grad()
    def _weights(self, camera: Camera) -> LiftOperator:
        return view_operator(self.splats, scale_camera(drawing_camera(camera), self.size(camera)))
