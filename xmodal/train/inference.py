"""Students at work: rows for every point of a cloud, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from detectors.point_student import PointStudent
from xmodal.splats.values import centres
from xmodal.values import Gaussians, Points

# Points that a network looks at together: about 1 GB of activations for the tiny U-Net.
_MAX_POINTS = 400_000
# What a block sees beyond its border; further away than this a voxel has little influence.
_HALO_M = 1.0
_DECODE_ROWS = 8192


@runtime_checkable
class StudentOp(Protocol):
    """What training and inference need of a student's op."""

    @property
    def describe(self) -> Callable[..., Float[Tensor, "N Ci"]]:
        """Gives the inputs of every point, which may depend on the whole cloud.

        It is given points; an op with `sees_splats` is given the splats of a run over splats.
        """
        ...


def inputs_of(op: StudentOp, cloud: Points | Gaussians) -> Float[Tensor, "M Ci"]:
    """Inputs of every point or splat, as the op describes them."""
    return op.describe(cloud)


def places_of(cloud: Points | Gaussians) -> Points:
    """The points, or the centres of splats."""
    return centres(cloud) if isinstance(cloud, Gaussians) else cloud


def run_student(net: PointStudent, cloud: Points, inputs: Float[Tensor, "M Ci"]) -> Points:
    """Rows of every point in one pass, differentiable; for clouds that fit in memory.

    A network in training mode may hide inputs; `masked` says where.
    """
    encoded = net.encode(cloud.xyz, cloud.offsets, inputs)
    return replace(_with_rows(cloud, net.decode(encoded)), masked=encoded.masked)


@torch.no_grad()
def predict(
    op: StudentOp,
    net: PointStudent,
    cloud: Points | Gaussians,
    *,
    out: Float[Tensor, "M C"] | None = None,
    max_points: int = _MAX_POINTS,
) -> Points:
    """Rows of every point of a cloud, in evaluation mode and bounded memory.

    A sample of up to `max_points` points is seen as a whole. A larger one is cut into blocks that
    see one metre beyond their border, so rows near borders differ slightly from an undivided pass.

    Args:
        op: The student's op; describes the cloud.
        net: Its network; it is left in evaluation mode.
        cloud: Any number of samples; splats for an op that sees them.
        out: Where to put the rows, for instance a tensor over a mapped file; made when None.
        max_points: Points that the network looks at together, border included or not.

    Returns:
        The cloud with rows in the network's space; all rows valid, of weight 1.
    """
    device = next(net.parameters()).device
    inputs, cloud = inputs_of(op, cloud), places_of(cloud)
    net.eval()
    for block, own in blocks_of(cloud, max_points):
        encoded = net.encode(
            cloud.xyz[block].to(device),
            torch.tensor([0, len(block)]),
            inputs[block].to(device),
        )
        for select in own.nonzero().squeeze(1).split(_DECODE_ROWS):
            rows = net.decode(encoded, select.to(device)).cpu()
            if out is None:
                out = torch.empty(len(cloud.xyz), rows.shape[1], dtype=rows.dtype)
            out[block[select]] = rows.to(out.dtype)
    if out is None:
        rows = net(cloud.xyz.to(device), cloud.offsets, inputs.to(device))
        return _with_rows(cloud, rows.cpu())
    return _with_rows(cloud, out)


def _with_rows(cloud: Points, rows: Tensor) -> Points:
    return replace(
        cloud,
        rows=rows,
        valid=torch.ones(len(rows), dtype=torch.bool, device=rows.device),
        weight=torch.ones(len(rows), device=rows.device),
        num_views=None,
        disagreement=None,
    )


def blocks_of(
    cloud: Points, max_points: int = _MAX_POINTS
) -> Iterator[tuple[Int[Tensor, " K"], Bool[Tensor, " K"]]]:
    """Rows that are seen together, and which of them the block answers for."""
    for rows in torch.arange(len(cloud.xyz)).split(cloud.offsets.diff().tolist()):
        xyz = cloud.xyz[rows]
        for part in _halves(xyz, torch.arange(len(rows)), max_points):
            if len(part) == len(rows):
                seen = torch.ones(len(rows), dtype=torch.bool)
                own = seen
            else:
                low = xyz[part].amin(dim=0) - _HALO_M
                high = xyz[part].amax(dim=0) + _HALO_M
                seen = ((xyz >= low) & (xyz <= high)).all(dim=1)
                own = torch.zeros(len(rows), dtype=torch.bool)
                own[part] = True
            yield rows[seen], own[seen]


def _halves(xyz: Tensor, rows: Tensor, max_points: int) -> Iterator[Tensor]:
    """Cut rows at the median of the longest side until every part is small enough."""
    if len(rows) == 0:
        return
    if len(rows) <= max_points:
        yield rows
        return
    part = xyz[rows]
    axis = int((part.amax(dim=0) - part.amin(dim=0)).argmax())
    order = part[:, axis].argsort(stable=True)
    for half in order.tensor_split(2):
        yield from _halves(xyz, rows[half], max_points)


def observed(points: Points) -> Bool[Tensor, " M"]:
    """Rows of a teacher that say something: valid, and of some weight where it has weights."""
    seen = torch.ones(len(points.xyz), dtype=torch.bool)
    if points.valid is not None:
        seen &= points.valid
    if points.weight is not None:
        seen &= points.weight > 0
    return seen
