"""Row 5: an empty cloud, one point, identical points: every operation has a defined result."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lifting.completion import complete_knn
from lifting.neighbours import distinct_sites, nearest_neighbours
from lifting.points import estimate_normals, segment_operator, voxelize
from lifting.scatter import scatter_mean, scatter_sum, segment_max
from lifting.steps import smooth
from lifting.superpoints import superpoints


def nothing_valid(xyz: Tensor) -> Tensor:
    return torch.zeros(len(xyz), dtype=torch.bool)


def into_one_segment(xyz: Tensor) -> Tensor:
    return torch.zeros(len(xyz), dtype=torch.int64)


OPERATIONS: dict[str, Callable[[Tensor], list[Tensor]]] = {
    "voxelize numba": lambda xyz: list(vars(voxelize(xyz, 0.1, backend="numba")).values())[:3],
    "voxelize torch": lambda xyz: list(vars(voxelize(xyz, 0.1, backend="torch")).values())[:3],
    "voxel mean": lambda xyz: [voxelize(xyz, 0.1).operator().lift(xyz).rows],
    "normals": lambda xyz: [estimate_normals(xyz)],
    "normals from a viewpoint": lambda xyz: [estimate_normals(xyz, viewpoint=torch.zeros(3))],
    "super-points": lambda xyz: [superpoints(xyz)],
    "super-points with colour": lambda xyz: [superpoints(xyz, torch.zeros_like(xyz), xyz)],
    "segments": lambda xyz: [segment_operator(into_one_segment(xyz)).lift(xyz).rows],
    "neighbours": lambda xyz: [nearest_neighbours(xyz, xyz, 3)[1]],
    "sites": lambda xyz: list(distinct_sites(xyz)),
    "sum": lambda xyz: [scatter_sum(xyz, into_one_segment(xyz), 1)],
    "mean": lambda xyz: [scatter_mean(xyz, into_one_segment(xyz), 1)],
    "maximum": lambda xyz: [segment_max(xyz, into_one_segment(xyz), 1).rows],
    "completion": lambda xyz: [complete_knn(xyz, xyz, nothing_valid(xyz)).rows],
    "smoothing": lambda xyz: [smooth(xyz, xyz.clone(), ~nothing_valid(xyz), 0.1)],
}


@pytest.mark.parametrize("count", [0, 1, 200])
@pytest.mark.parametrize("name", list(OPERATIONS))
def test_degenerate_clouds_have_a_defined_result(name: str, count: int) -> None:
    xyz = torch.full((count, 3), 0.25)
    for result in OPERATIONS[name](xyz):
        assert torch.isfinite(result).all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize(
    "name",
    [
        "voxelize numba",
        "voxelize torch",
        "normals",
        "super-points",
        "neighbours",
        "completion",
        "smoothing",
    ],
)
def test_not_a_number_is_refused_and_never_spread(name: str, bad: float) -> None:
    xyz = torch.rand(5, 3)
    xyz[2, 1] = bad
    with pytest.raises(ValueError, match="NaN or infin"):
        OPERATIONS[name](xyz)
