"""Super-points joined by masks, and things left when planes are taken away."""

import pytest
import torch

from lifting.instances import MaskAgreement, grow_regions, number_by_size, touching_segments
from lifting.operator import LiftOperator
from lifting.planes import large_plane, linked_parts, plane_free_segments
from lifting.points import segment_operator

SEGMENTS = torch.tensor([0, 0, 1, 1, 2, 2])
PAIRS = torch.tensor([[0, 1], [1, 2]])


def masks(of_point: list[int], num: int = 2) -> LiftOperator:
    """Every point in one mask; -1 for none."""
    column = torch.tensor(of_point)
    row = (column >= 0).nonzero().squeeze(1)
    return LiftOperator.from_coo(row, column[row], torch.ones(len(row)), shape=(len(column), num))


def agreement() -> MaskAgreement:
    return MaskAgreement(segments=segment_operator(SEGMENTS), pairs=PAIRS)


def regions(found: MaskAgreement, threshold: float = 0.5) -> list[int]:
    grown = grow_regions(
        found.pairs, found.likeness, found.evidence, num_segments=3, threshold=threshold
    )
    return grown.tolist()


def cube(at: tuple[float, float, float], num: int = 6) -> torch.Tensor:
    step = 0.02 * torch.arange(num)
    return torch.cartesian_prod(step, step, step) + torch.tensor(at)


def room() -> torch.Tensor:
    """A floor of 1.2 m, and two cubes that stand above it, half a metre apart."""
    step = 0.02 * torch.arange(60)
    floor = torch.cartesian_prod(step, step, torch.zeros(1))
    return torch.cat([floor, cube((0.2, 0.2, 0.06)), cube((0.8, 0.8, 0.06))])


def test_touching_segments_are_pairs_in_order():
    xyz = torch.tensor([[0.0, 0, 0], [0.1, 0, 0], [0.2, 0, 0], [9.0, 0, 0]])
    ids = torch.tensor([2, 0, 1, 3])
    assert touching_segments(xyz, ids, gap_m=0.12).tolist() == [[0, 1], [0, 2]]
    assert touching_segments(xyz, torch.tensor([2, -1, 1, 3]), gap_m=0.12).tolist() == []


def test_one_mask_over_two_segments_joins_them():
    found = agreement()
    found.add(masks([0, 0, 0, 0, 1, 1]), torch.arange(6))
    assert found.evidence.tolist() == [1, 1]
    assert found.likeness.tolist() == [1, 0]
    assert found.covered.tolist() == [1, 1, 1]
    assert regions(found) == [0, 0, 2]


def test_a_mask_that_cuts_a_segment_counts_by_its_cosine():
    found = agreement()
    found.add(masks([0, 0, 0, 1, 1, 1]), torch.arange(6))
    assert torch.allclose(found.likeness, torch.full((2,), 0.5**0.5, dtype=torch.float64))


def test_what_no_mask_covers_says_nothing_and_one_side_alone_says_border():
    found = agreement()
    found.add(masks([0, 0, -1, -1, -1, -1]), torch.arange(6))
    assert found.evidence.tolist() == [1, 0]
    assert found.likeness.tolist() == [0, 0]
    assert found.covered.tolist() == [1, 0, 0]


def test_evidence_is_the_share_that_a_view_sees():
    found = agreement()
    # Half of segment 0, all of 1, nothing of 2.
    found.add(masks([0, -1, 0, 0, -1, -1]), torch.tensor([0, 2, 3]))
    assert found.evidence.tolist() == [0.5, 0]
    assert found.likeness.tolist() == [0.5, 0]
    assert found.covered.tolist() == [0.5, 1, 0]


def test_views_outvote_each_other():
    found = agreement()
    for of_point in ([0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 1, 1]):
        found.add(masks(of_point), torch.arange(6))
    assert regions(found) == [0, 0, 2]
    assert regions(found, threshold=0.9) == [0, 1, 2]
    # Once 0 and 1 are one, its border to 2 has the mean likeness of 1/3 still.
    assert regions(found, threshold=0.3) == [0, 0, 0]


def test_average_linkage_does_not_chain():
    # A square 0-1, 1-3, 0-2, 2-3: once 0 and 1 are joined, and 2 and 3, the two borders average.
    pairs = torch.tensor([[0, 1], [0, 2], [1, 3], [2, 3]])
    like = torch.tensor([1.0, 0.8, 0.0, 0.9])
    grown = grow_regions(pairs, like, torch.ones(4), num_segments=4, threshold=0.5)
    assert grown.tolist() == [0, 0, 2, 2]


def test_pairs_without_evidence_are_not_joined():
    grown = grow_regions(
        PAIRS, torch.ones(2), torch.tensor([0.0, 1.0]), num_segments=3, threshold=0.1
    )
    assert grown.tolist() == [0, 1, 1]


def test_no_pairs_no_regions():
    none = torch.zeros(0, 2, dtype=torch.int64)
    grown = grow_regions(none, torch.zeros(0), torch.zeros(0), num_segments=2, threshold=0.5)
    assert grown.tolist() == [0, 1]


def test_numbers_fall_with_size():
    labels = torch.tensor([7, 3, 3, -1, 7, 3, 9])
    assert number_by_size(labels, min_points=1).tolist() == [1, 0, 0, -1, 1, 0, 2]
    assert number_by_size(labels, min_points=2).tolist() == [1, 0, 0, -1, 1, 0, -1]
    assert number_by_size(labels[:0], min_points=1).tolist() == []


# ---- planes ---------------------------------------------------------------------------------


def test_a_floor_and_two_cubes_are_three_things():
    found = plane_free_segments(room())
    sizes = torch.bincount(found[found >= 0]).tolist()
    assert sizes == [3600, 216, 216]
    assert set(found[:3600].tolist()) == {0}
    assert len(set(found[3600:3816].tolist())) == len(set(found[3816:].tolist())) == 1


def test_things_do_not_depend_on_the_order_of_points():
    xyz = room()
    order = torch.randperm(len(xyz), generator=torch.Generator().manual_seed(0))
    assert torch.equal(plane_free_segments(xyz)[order], plane_free_segments(xyz[order]))


def test_the_largest_plane_wins():
    xyz = torch.cat([room()[:3600], torch.rand(300, 3) + torch.tensor([0.0, 0, 0.5])])
    normals = torch.tensor([[0.0, 0, 1]]).repeat(len(xyz), 1)
    generator = torch.Generator().manual_seed(0)
    inside = large_plane(xyz, normals, plane_m=0.01, generator=generator)
    assert inside[:3600].all()
    assert not inside[3600:].any()


def test_points_of_unknown_direction_lie_on_no_plane():
    xyz = room()[:400]
    generator = torch.Generator().manual_seed(0)
    inside = large_plane(xyz, torch.zeros_like(xyz), plane_m=0.01, generator=generator)
    assert not inside.any()


def test_parts_end_at_gaps():
    xyz = torch.tensor([[0.0, 0, 0], [0.1, 0, 0], [0.5, 0, 0]])
    assert linked_parts(xyz, gap_m=0.2).tolist() == [0, 0, 1]
    assert linked_parts(xyz[:0], gap_m=0.2).tolist() == []


def test_no_points_no_things():
    assert plane_free_segments(torch.zeros(0, 3)).tolist() == []


@pytest.mark.parametrize("settings", [{"plane_m": 0.0}, {"gap_m": -1.0}, {"plane_share": 2.0}])
def test_planes_refuse_settings_out_of_range(settings):
    with pytest.raises(ValueError, match="must be above 0 and plane_share"):
        plane_free_segments(room(), **settings)


def test_planes_refuse_points_without_a_place():
    xyz = room()
    xyz[3, 1] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        plane_free_segments(xyz)
