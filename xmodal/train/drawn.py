"""Splats that a student shapes: as a value of the graph, and for a whole scene."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from detectors.splat_student import Shapes, SplatStudent
from lifting.gaussians.harmonics import sh_from_rgb
from lifting.gaussians.splats import Splats
from xmodal.splats.values import as_splats
from xmodal.train.inference import StudentOp, blocks_of, inputs_of, places_of
from xmodal.values import Gaussians, Points


def as_drawn(
    shapes: Shapes, rows: Float[Tensor, "S C"], offsets: Int[Tensor, " B1"] | None = None
) -> Gaussians:
    """What a student gave as splats with features, all observed.

    Args:
        shapes: The splats.
        rows: Their features.
        offsets: Where each sample begins; one sample when None.
    """
    count = len(rows)
    ones = torch.ones(count, device=rows.device)
    return Gaussians(
        means=shapes.means,
        quats=shapes.quats,
        scales=shapes.scales,
        opacities=shapes.opacities,
        sh=sh_from_rgb(shapes.rgb),
        offsets=torch.tensor([0, count]) if offsets is None else offsets,
        rows=rows,
        valid=ones.bool(),
        weight=ones,
    )


@torch.no_grad()
def predict_splats(op: StudentOp, net: SplatStudent, cloud: Points | Gaussians) -> Splats:
    """The splats that a student makes of one scene, in bounded memory; see `predict`.

    Args:
        op: The student's op.
        net: Its network; it is left in evaluation mode.
        cloud: One sample.

    Raises:
        DataError: If a number that it gives makes no splat.
    """
    device = next(net.parameters()).device
    inputs, cloud = inputs_of(op, cloud), places_of(cloud)
    count = len(cloud.xyz)
    net.eval()
    made = {name: torch.empty(count, width) for name, width in _WIDTHS.items()}
    for block, own in blocks_of(cloud):
        encoded = net.encode(
            cloud.xyz[block].to(device), torch.tensor([0, len(block)]), inputs[block].to(device)
        )
        select = own.nonzero().squeeze(1)
        shapes = net.shapes(encoded, cloud.xyz[block[select]].to(device), select.to(device))
        for name, rows in made.items():
            rows[block[select]] = getattr(shapes, name).reshape(len(select), -1).cpu()
    whole = Shapes(**{**made, "opacities": made["opacities"].squeeze(1)})
    return as_splats(as_drawn(whole, torch.zeros(count, 0)), "splats of a student")


_WIDTHS = {"means": 3, "quats": 4, "scales": 3, "opacities": 1, "rgb": 3}
