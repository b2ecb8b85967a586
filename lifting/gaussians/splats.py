"""`Splats`: a scene of anisotropic 3D Gaussians, in gsplat's words."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

# Coefficients of real spherical harmonics up to degree 3, as 3D Gaussian splatting stores them.
SH_SIZES = {1: 0, 4: 1, 9: 2, 16: 3}


@dataclass(frozen=True, kw_only=True, eq=False)
class Splats:
    """Splats of one scene in the world frame. It checks itself when made.

    Attributes:
        means: Centres, metres.
        quats: Rotations w x y z; any length above zero, used at length 1.
        scales: Standard deviations along the rotated axes, metres (not their logarithm).
        opacities: In [0, 1] (not logits).
        sh: Colour as spherical harmonics of the direction from the camera to the splat, degree
            0 to 3; colour is 0.5 + their sum, cut at 0. None for splats without colour.
    """

    means: Float[Tensor, "M 3"]
    quats: Float[Tensor, "M 4"]
    scales: Float[Tensor, "M 3"]
    opacities: Float[Tensor, " M"]
    sh: Float[Tensor, "M K 3"] | None = None

    def __post_init__(self) -> None:
        self.validate()

    def __len__(self) -> int:
        return len(self.means)

    @property
    def sh_degree(self) -> int | None:
        """Degree of the harmonics; None for splats without colour."""
        return None if self.sh is None else SH_SIZES[self.sh.shape[1]]

    def validate(self) -> None:
        """Check that the numbers make splats.

        Raises:
            ValueError: Naming the field, the first wrong row, what it must be and what it is.
        """
        count = len(self.means)
        for name, width in (("means", 3), ("quats", 4), ("scales", 3)):
            _check_shape(name, getattr(self, name), (count, width))
        _check_shape("opacities", self.opacities, (count,))
        if self.sh is not None:
            if self.sh.ndim != 3 or self.sh.shape[1] not in SH_SIZES:
                raise ValueError(
                    "sh must have shape [M, K, 3] with K one of 1, 4, 9, 16 (degree 0 to 3), got "
                    f"{list(self.sh.shape)}"
                )
            _check_shape("sh", self.sh, (count, self.sh.shape[1], 3))
            _check_rows("sh", self.sh.isfinite().flatten(1).all(1), "finite", self.sh)
        _check_rows("means", self.means.isfinite().all(1), "finite", self.means)
        length = torch.linalg.vector_norm(self.quats, dim=1)
        turned = length.isfinite() & (length > 0)
        _check_rows("quats", turned, "finite and not all zero", self.quats)
        sized = (self.scales.isfinite() & (self.scales > 0)).all(1)
        _check_rows("scales", sized, "finite and above 0 metres (not logarithms)", self.scales)
        opaque = (self.opacities >= 0) & (self.opacities <= 1)
        _check_rows("opacities", opaque, "in [0, 1] (not logits)", self.opacities)

    def select(self, index: Int64[Tensor, " K"]) -> Splats:
        """Splats `index`, in that order."""
        return replace(
            self,
            means=self.means[index],
            quats=self.quats[index],
            scales=self.scales[index],
            opacities=self.opacities[index],
            sh=None if self.sh is None else self.sh[index],
        )

    def to(
        self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Splats:
        """Move to a device, change the precision, or both."""
        return Splats(
            means=self.means.to(device=device, dtype=dtype),
            quats=self.quats.to(device=device, dtype=dtype),
            scales=self.scales.to(device=device, dtype=dtype),
            opacities=self.opacities.to(device=device, dtype=dtype),
            sh=None if self.sh is None else self.sh.to(device=device, dtype=dtype),
        )


def _check_shape(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(value.shape) != shape:
        raise ValueError(f"{name} must have shape {list(shape)}, got {list(value.shape)}")


def _check_rows(name: str, good: Tensor, wanted: str, value: Tensor) -> None:
    if bool(good.all()):
        return
    bad = (~good).nonzero().squeeze(1)
    row = int(bad[0])
    shown = value[row].detach().flatten()[:4].tolist()
    raise ValueError(f"{name} must be {wanted}; {len(bad)} are not, first row {row}: {shown}")
