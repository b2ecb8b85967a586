"""`Photo`: one posed picture to fit splats to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from lifting.cameras import Camera, scale_camera
from lifting.gaussians.splats import Splats

# Of the largest distance of a camera from their middle: the size of a scene, as 3DGS takes it.
_EXTENT_MARGIN = 1.1
# Cameras close together say little about the size; then it is this share of the distance to the
# splats.
_LEAST_EXTENT = 0.1


@dataclass(frozen=True, kw_only=True, eq=False)
class Photo:
    """A picture through an ideal lens. It checks itself when made.

    Attributes:
        rgb: Colours in [0, 1].
        camera: Pinhole camera of the picture, without lens coefficients.
        depth_m: z-depth, metres; 0 or non-finite where there is no reading. None without depth.
        valid: Pixels that are part of the picture; None for all. Undistortion leaves a border.
        name: For people.

    Raises:
        ValueError: If the parts do not fit each other or are out of range.
    """

    rgb: Float[Tensor, "3 H W"]
    camera: Camera
    depth_m: Float[Tensor, "H W"] | None = None
    valid: Bool[Tensor, "H W"] | None = None
    name: str = "photo"

    def __post_init__(self) -> None:
        if tuple(self.rgb.shape) != (3, *self.camera.hw):
            raise ValueError(
                f"{self.name}: rgb must have shape {[3, *self.camera.hw]} as its camera says, got "
                f"{list(self.rgb.shape)}"
            )
        if self.camera.coefficients is not None:
            raise ValueError(
                f"{self.name}: splats are fitted through ideal lenses; undistort the picture first"
            )
        for name, part in (("depth_m", self.depth_m), ("valid", self.valid)):
            if part is not None and tuple(part.shape) != self.camera.hw:
                raise ValueError(
                    f"{self.name}: {name} must have shape {list(self.camera.hw)}, got "
                    f"{list(part.shape)}"
                )
        low, high = float(self.rgb.min()), float(self.rgb.max())
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"{self.name}: rgb must be finite and in [0, 1], got {low:g} to {high:g}; divide "
                "8-bit colours by 255"
            )
        if self.valid is not None and not bool(self.valid.any()):
            raise ValueError(f"{self.name}: valid must keep at least one pixel, got none")

    def to(self, device: torch.device | str) -> Photo:
        """The pixels on a device."""
        if self.rgb.device == torch.device(device):
            return self
        return Photo(
            rgb=self.rgb.to(device),
            camera=self.camera,
            depth_m=None if self.depth_m is None else self.depth_m.to(device),
            valid=None if self.valid is None else self.valid.to(device),
            name=self.name,
        )

    def reduced(self, factor: int) -> Photo:
        """The photo at 1 / `factor` of the size, at least one pixel.

        Colours are means over the pixels' areas; a reduced pixel is valid when all of them are;
        depth is picked, since means across edges lie in the air.

        Raises:
            ValueError: If the factor is below 1.
        """
        if factor < 1:
            raise ValueError(f"factor must be at least 1, got {factor}")
        height, width = self.camera.hw
        hw = max(height // factor, 1), max(width // factor, 1)
        if hw == self.camera.hw:
            return self
        valid = self.valid
        if valid is not None:
            valid = adaptive_avg_pool2d(valid[None].to(self.rgb), hw)[0] == 1
            # The border may be all there is at this size.
            valid = valid if bool(valid.any()) else None
        depth_m = self.depth_m
        if depth_m is not None:
            row = (torch.arange(hw[0]) * 2 + 1) * height // (2 * hw[0])
            column = (torch.arange(hw[1]) * 2 + 1) * width // (2 * hw[1])
            depth_m = depth_m[row.to(depth_m.device)][:, column.to(depth_m.device)]
        rgb = adaptive_avg_pool2d(self.rgb[None], hw)[0].clamp(0, 1)
        camera = scale_camera(self.camera, hw)
        return Photo(rgb=rgb, camera=camera, depth_m=depth_m, valid=valid, name=self.name)


def scene_extent_m(photos: Sequence[Photo], start: Splats) -> float:
    """Size of a scene in metres: how far its cameras are spread.

    It is 1.1 times the greatest distance of a camera from their mean, but at least a tenth of the
    median distance of the splats from it: cameras on a tripod spread over nothing.

    Args:
        photos: At least one.
        start: At least one splat.
    """
    centres = torch.stack([photo.camera.centre.detach().cpu().double() for photo in photos])
    middle = centres.mean(0)
    spread = float(torch.linalg.vector_norm(centres - middle, dim=1).max())
    means = start.means.detach().cpu().double()
    away = float(torch.linalg.vector_norm(means - middle, dim=1).median())
    return max(_EXTENT_MARGIN * spread, _LEAST_EXTENT * away, torch.finfo(torch.float32).tiny)
