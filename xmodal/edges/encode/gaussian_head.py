"""The op `gaussian_head`: a point network that makes a splat of every point."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from xmodal.edges.encode.voxel_student import VoxelSettings

if TYPE_CHECKING:
    from torch import Tensor

    from detectors.splat_student import GaussianHead, SplatStudent
    from xmodal.values import Gaussians, Points


@dataclass(frozen=True, kw_only=True)
class GaussianHeadOp(VoxelSettings):
    """A sparse U-Net whose head gives, for each point, a feature row and a splat.

    Splats begin as discs on the points, as `fit_splats` without steps makes them, and the network
    says what to change: an offset, scales, a rotation, opacity and colour. Taught by renderings
    (`render`), the network learns from pictures alone what depth, colour and features of a place
    go together.

    Settings beside those of every student over voxels (`VoxelSettings`):

    Attributes:
        size: As of `sparse_unet`.
        reach: Farthest that a splat moves along each axis, in voxels.
        opacity: Of the splats at the start.

    Source:
        Yao et al., GaussianCross, ACM MM 2025 (arXiv 2508.02172). There a cloud is scaled into a
        cuboid so that one network suits scenes of any size; here offsets are in voxels and sizes in
        spacings of the points, which does the same.
    """

    op: Literal["gaussian_head"] = "gaussian_head"
    size: Literal["tiny", "small", "base", "published"] = "tiny"
    reach: float = 0.5
    opacity: float = 0.9

    draws = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.reach < float("inf"):
            raise ValueError(f"reach must be above 0 voxels, not {self.reach}")
        if not 0 < self.opacity < 1:
            raise ValueError(f"opacity must lie between 0 and 1, not {self.opacity}")

    def build(
        self, *, channels: int, space: Literal["unit", "simplex", "raw"] | None = None
    ) -> GaussianHead:
        """A new network with random weights that gives `channels` columns in `space`."""
        from detectors.point_student import TRUNK_CHANNELS
        from detectors.sparse_unet import SparseUNet
        from detectors.splat_student import GaussianHead
        from xmodal.point_inputs import input_channels

        width = input_channels(self.inputs)
        return GaussianHead(
            width,
            channels,
            trunk=SparseUNet(width, TRUNK_CHANNELS, self.size),
            voxel_m=self.voxel_m,
            space=space or "raw",
            reach_m=self.reach * self.voxel_m,
            mask=self.hidden_cells(),
        )

    def describe(self, cloud: Points) -> Tensor:
        """Inputs of every point, and the splat that it starts as."""
        from itertools import pairwise

        import torch

        from lifting.gaussians.initialise import splats_from_points
        from xmodal.splats.values import start_columns

        starts: list[Tensor] = []
        bounds = cloud.offsets.tolist()
        for first, last in pairwise(bounds):
            xyz, rgb, normals = (
                None if part is None else part[first:last]
                for part in (cloud.xyz, cloud.rgb, cloud.normals)
            )
            assert xyz is not None, "points have places"
            if len(xyz):
                splats = splats_from_points(xyz, rgb, normals, opacity=self.opacity)
                starts.append(start_columns(splats))
        start = torch.cat(starts) if starts else cloud.xyz.new_zeros(0, 11)
        return torch.cat((super().describe(cloud), start), dim=1)

    def __call__(self, net: SplatStudent, cloud: Points) -> Gaussians:
        """A splat of every point of the cloud, with its row; differentiable."""
        from xmodal.train.drawn import as_drawn

        encoded = net.encode(cloud.xyz, cloud.offsets, self.describe(cloud))
        drawn = as_drawn(net.shapes(encoded, cloud.xyz), net.decode(encoded), cloud.offsets)
        return replace(drawn, masked=encoded.masked)
