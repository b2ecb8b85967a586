"""Lift ops that make sets, things and targets: masks, captions, instances, crops, labels."""

from __future__ import annotations

import dataclasses
import math
from importlib import metadata
from typing import Any

import pytest
import torch
from torch import Tensor

from lifting.cameras import Camera
from xmodal.edges.encode.ema import Ema
from xmodal.edges.lift.captions import Captions, imagenet_names
from xmodal.edges.lift.instances import Instances
from xmodal.edges.lift.mask_sets import MaskSets
from xmodal.edges.lift.one_hot import OneHot
from xmodal.edges.lift.points import LiftPoints
from xmodal.edges.lift.segment_crops import SegmentCrops
from xmodal.edges.lift.superpoints import LiftSuperpoints
from xmodal.errors import DataError
from xmodal.teachers.membership import membership_of
from xmodal.teachers.weights import MINILM
from xmodal.values import Depth, FeatureMap, Image, Labels, Masks, Points

HW = (24, 32)
NAMES = ("apple", "mug", "teapot")
# All points of the wall are two metres away: a pixel is 1/15 m wide there.
SIDE = 18
needs_sentences = pytest.mark.skipif(
    not any(metadata.distributions(name=MINILM.package)),
    reason=f"{MINILM.package} is not installed (constraints-weights.txt)",
)


def camera(x_m: float = 0.0) -> Camera:
    pose = torch.eye(4)
    pose[0, 3] = x_m
    K = torch.tensor([[30.0, 0, 16], [0, 30, 12], [0, 0, 1]])
    return Camera(K=K, T_world_cam=pose, hw=HW)


def wall() -> Points:
    """A grid of points on a wall in front of the camera; the left half is red, the right blue."""
    step = 0.06 * (torch.arange(SIDE) - (SIDE - 1) / 2)
    x, y = torch.meshgrid(step, step, indexing="xy")
    xyz = torch.stack([x, y, torch.full_like(x, 2.0)], dim=-1).reshape(-1, 3)
    rgb = torch.zeros(len(xyz), 3)
    rgb[:, 0], rgb[:, 2] = (xyz[:, 0] < 0).float(), (xyz[:, 0] >= 0).float()
    return Points(
        xyz=xyz,
        offsets=torch.tensor([0, len(xyz)]),
        normals=torch.tensor([0.0, 0, -1]).repeat(len(xyz), 1),
        rgb=rgb,
    )


def halves(x_m: float = 0.0, *, name: str = "000", rows: Tensor | None = None) -> Masks:
    """Two masks that meet at x = 0 of the world, over one cell per pixel."""
    border = round(16 - 30 * x_m / 2.0)
    left = torch.zeros(HW, dtype=torch.bool)
    left[:, :border] = True
    return Masks(
        rows=torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]) if rows is None else rows,
        valid=torch.ones(2, dtype=torch.bool),
        weight=torch.tensor([1.0, 0.5]),
        membership=membership_of(torch.stack([left, ~left])),
        grid_hw=HW,
        camera=camera(x_m),
        name=name,
    )


def depths(num: int = 1) -> list[Depth]:
    return [
        Depth(depth_m=torch.full(HW, 2.0), camera=camera(), name=f"{i:03d}") for i in range(num)
    ]


def image(name: str = "000") -> Image:
    rgb = torch.zeros(3, *HW)
    rgb[0, :, :16], rgb[2, :, 16:] = 1, 1
    return Image(rgb=rgb, camera=camera(), name=name)


LEFT = wall().xyz[:, 0] < 0


# ---- mask_sets ------------------------------------------------------------------------------


def test_each_mask_is_the_set_of_points_seen_in_it():
    sets = MaskSets()([halves()], depths(), wall())
    assert sets.membership.shape == (2, SIDE * SIDE)
    inside = sets.membership.to_dense()
    assert torch.equal(inside[0] > 0, LEFT)
    assert torch.equal(inside[1] > 0, ~LEFT)
    assert torch.equal(sets.rows, halves().rows)
    assert sets.valid.all()
    size = SIDE * SIDE / 2
    share = size / (size + 50)
    assert torch.allclose(sets.weight, torch.tensor([share, 0.5 * share]))


def test_views_stay_apart():
    maps = [halves(name="000"), halves(0.2, name="001")]
    sets = MaskSets()(maps, None, wall())
    assert sets.membership.num_targets == 4


def test_invalid_and_hidden_masks_are_no_sets():
    maps = dataclasses.replace(halves(), valid=torch.tensor([True, False]))
    assert MaskSets()([maps], depths(), wall()).rows.tolist() == [[1, 0, 0]]
    far = dataclasses.replace(wall(), xyz=wall().xyz + torch.tensor([0.0, 0, 1]))
    assert not len(MaskSets()([maps], depths(), far).rows)


def test_small_masks_are_left_out():
    assert not len(MaskSets(min_points=SIDE * SIDE)([halves()], depths(), wall()).rows)


def test_an_overlapped_mask_keeps_its_share():
    whole = torch.ones(HW, dtype=torch.bool)
    part = torch.zeros(HW, dtype=torch.bool)
    part[:, :16] = True
    maps = dataclasses.replace(
        halves(),
        membership=membership_of(torch.stack([whole, part])),
        weight=torch.tensor([1.0, 3]),
    )
    inside = MaskSets()([maps], depths(), wall()).membership.to_dense()
    assert torch.allclose(inside[0], torch.where(LEFT, 0.25, 1.0))
    assert torch.allclose(inside[1], torch.where(LEFT, 0.75, 0.0))
    strict = MaskSets(least_weight=0.5)([maps], depths(), wall()).membership.to_dense()
    assert torch.equal(strict[0] > 0, ~LEFT)


def test_mask_sets_refuse_frames_of_another_width():
    maps = [halves(name="000"), halves(name="001", rows=torch.rand(2, 4))]
    with pytest.raises(DataError, match="3 channels"):
        MaskSets()(maps, depths(2), wall())


# ---- captions -------------------------------------------------------------------------------


def captioned(**settings: Any) -> list[tuple[str, int, tuple[str, ...]]]:
    op = Captions(classes=NAMES, min_points=1, **settings)
    shared = torch.tensor([[1.0, 0, 0], [0, 0.5, 0.5]])
    maps = [halves(name="000"), halves(name="001", rows=shared)]
    found = op.captioned(maps, depths(2), wall())
    return [(one.level, len(one.points), one.words) for one in found]


def test_captions_name_what_is_seen():
    num = SIDE * SIDE
    assert captioned(levels=("view",)) == [
        ("view", num, ("apple", "mug")),
        ("view", num, ("apple", "mug", "teapot")),
    ]
    # Both views see all points, so nothing is left for the differences.
    assert captioned(levels=("entity",)) == [("entity", num, ("apple", "mug"))]
    assert captioned(levels=("scene",), words=2) == [("scene", num, ("apple", "mug"))]


@needs_sentences
def test_captions_are_sentences_on_sets_of_points():
    op = Captions(classes=NAMES, levels=("view", "scene"), min_points=1)
    sets = op([halves()], depths(), wall())
    assert sets.rows.shape == (2, op.channels)
    assert torch.allclose(sets.rows.norm(dim=1), torch.ones(2), atol=1e-5)
    assert torch.equal(sets.membership.to_dense(), torch.ones(2, SIDE * SIDE))


def test_captions_of_patches():
    maps = FeatureMap(
        rows=torch.eye(3)[torch.tensor([0, 1])],
        valid=torch.tensor([True, True]),
        weight=torch.ones(2),
        grid_hw=(1, 2),
        camera=camera(),
        name="000",
    )
    op = Captions(classes=NAMES, levels=("view",))
    (found,) = op.captioned([maps], depths(), wall())
    assert set(found.words) == {"apple", "mug"}


def test_imagenet_names_are_single_names():
    names = imagenet_names()
    assert len(names) == 1000
    assert names[504] == "coffee mug"
    assert names[0] == "tench"


@pytest.mark.parametrize(
    ("rows", "classes"),
    [
        (torch.tensor([[1.0, 0, 0], [0, 1, 0]]), ("apple", "mug")),
        (torch.tensor([[2.0, 0, 0], [0, 1, 0]]), NAMES),
        (torch.tensor([[2.0, -1, 0], [0, 1, 0]]), NAMES),
        (torch.tensor([[1.0, 0, 0], [0, 1, 0]]), ()),
    ],
    ids=["width", "sum", "sign", "imagenet"],
)
def test_captions_refuse_maps_without_names(rows, classes):
    with pytest.raises(DataError, match="named classes"):
        list(Captions(classes=classes).captioned([halves(rows=rows)], depths(), wall()))


def test_captions_refuse_a_scene_that_no_view_sees():
    far = dataclasses.replace(wall(), xyz=wall().xyz + torch.tensor([0.0, 0, 1]))
    with pytest.raises(DataError, match="no view that sees as many"):
        Captions(classes=NAMES)([halves()], depths(), far)


# ---- instances ------------------------------------------------------------------------------


def test_masks_join_super_points():
    # Strips of two columns; masks put strips 0 to 3 and 5 to 8 together, and halve strip 4.
    strips = (torch.arange(SIDE * SIDE) % SIDE) // 2
    cloud = dataclasses.replace(wall(), segments=strips)
    found = Instances(gap_m=0.07, threshold=0.8)([halves()], depths(), cloud).segments
    assert found is not None
    assert set(found.tolist()) == {0, 1, 2}
    assert torch.equal(found == 0, strips <= 3)
    assert torch.equal(found == 1, strips >= 5)


def test_super_points_are_made_where_the_cloud_has_none():
    found = Instances(gap_m=0.07)([halves()], depths(), wall()).segments
    assert found is not None
    assert len(set(found[LEFT].tolist())) == len(set(found[~LEFT].tolist())) == 1
    assert found[0] != found[-1]


def test_things_that_no_mask_covers_are_none():
    maps = dataclasses.replace(halves(), valid=torch.tensor([True, False]))
    found = Instances(gap_m=0.07)([maps], depths(), wall()).segments
    assert found is not None
    assert torch.equal(found >= 0, LEFT)


def test_instances_without_masks():
    found = Instances(by="geometry")(None, None, wall()).segments
    assert found is not None
    assert set(found.tolist()) == {0}


def test_instances_by_masks_need_masks():
    with pytest.raises(DataError, match="by: geometry"):
        Instances()(None, depths(), wall())


def test_instances_refuse_points_without_a_place():
    cloud = wall()
    cloud.xyz[0, 0] = math.nan
    with pytest.raises(DataError, match="finite"):
        Instances(by="geometry")(None, None, cloud)


# ---- segment_crops --------------------------------------------------------------------------


class MeanColour:
    """Describes a crop by its mean colour, and remembers the sizes that it saw."""

    name, channels, space, fingerprint, licence = "colour", 3, "simplex", "c" * 64, "none"

    def __init__(self) -> None:
        self.sizes: list[tuple[int, int]] = []

    def encode_image(self, image: Image) -> Tensor:
        self.sizes.append((image.rgb.shape[1], image.rgb.shape[2]))
        return image.rgb.mean(dim=(1, 2))


def segmented() -> Points:
    return dataclasses.replace(wall(), segments=(~LEFT).long())


def crop(op: SegmentCrops, cloud: Points, num: int = 1) -> tuple[Points, MeanColour]:
    teacher: Any = MeanColour()
    images = [image(f"{i:03d}") for i in range(num)]
    return op(teacher, images, depths(num), cloud), teacher


def test_each_segment_is_seen_in_its_own_box():
    lifted, teacher = crop(SegmentCrops(scales=(1.0,)), segmented())
    # Points reach 0.51 m to each side: 7.65 pixels; the halves begin 0.03 m from the middle.
    assert teacher.sizes == [(16, 8), (16, 8)]
    assert lifted.rows is not None
    assert torch.allclose(lifted.rows[LEFT], torch.tensor([1.0, 0, 0]))
    assert torch.allclose(lifted.rows[~LEFT], torch.tensor([0.0, 0, 1]))
    assert lifted.valid is not None
    assert lifted.valid.all()
    assert set(lifted.num_views.tolist()) == {1}


def test_rows_are_the_mean_over_scales_and_views():
    lifted, teacher = crop(SegmentCrops(scales=(1.0, 3.0), views_per_segment=2), segmented(), 3)
    assert len(teacher.sizes) == 2 * 2 * 2
    assert lifted.rows is not None
    # At three times its size a half of the wall shows a part of the other.
    assert 0 < float(lifted.rows[0, 2]) < 0.5
    assert torch.allclose(lifted.rows.sum(dim=1), torch.ones(SIDE * SIDE))
    assert set(lifted.num_views.tolist()) == {2}
    assert set(lifted.weight.tolist()) == {2}


def test_points_of_no_segment_are_not_observed():
    cloud = dataclasses.replace(wall(), segments=torch.where(LEFT, 0, -1))
    lifted, _ = crop(SegmentCrops(scales=(1.0,)), cloud)
    assert torch.equal(lifted.valid, LEFT)
    assert not lifted.rows[~LEFT].any()
    assert set(lifted.num_views[~LEFT].tolist()) == {0}


def test_boxes_end_at_the_image():
    (found, *_) = SegmentCrops(scales=(8.0,)).crops([image()], depths(), segmented())
    assert found.box_px == (0, 0, 32, 24)


def test_crops_need_segments():
    with pytest.raises(DataError, match="op: instances"):
        crop(SegmentCrops(), wall())


def test_crops_need_frames():
    with pytest.raises(DataError, match="no frames"):
        crop(SegmentCrops(), segmented(), 0)


def test_crops_refuse_segments_that_no_view_sees():
    far = dataclasses.replace(segmented(), xyz=wall().xyz + torch.tensor([0.0, 0, 1]))
    with pytest.raises(DataError, match="none among 1 views"):
        crop(SegmentCrops(), far)


def test_crops_refuse_depth_of_other_frames():
    teacher: Any = MeanColour()
    with pytest.raises(DataError, match="depth of frame 000"):
        SegmentCrops()(teacher, [image("007")], depths(), segmented())
    with pytest.raises(DataError, match="2 of them"):
        SegmentCrops()(teacher, [image()], depths(2), segmented())


# ---- one_hot --------------------------------------------------------------------------------


def labels(ids: list[int]) -> tuple[Labels, Points]:
    cloud = Points(xyz=torch.rand(len(ids), 3), offsets=torch.tensor([0, len(ids)]))
    return Labels(ids=torch.tensor(ids), classes=("floor", "mug", "wall")), cloud


def test_labels_become_rows():
    lifted = OneHot(names=("wall", "mug"))(*labels([2, 1, 0, -1]))
    assert lifted.rows.tolist() == [[1, 0], [0, 1], [0, 0], [0, 0]]
    assert lifted.valid.tolist() == [True, True, False, False]
    assert lifted.weight.tolist() == [1, 1, 0, 0]


def test_other_classes_can_have_a_column():
    op = OneHot(names=("wall", "lamp"), other=True)
    lifted = op(*labels([2, 1, 0, -1]))
    assert op.channels == 3
    assert lifted.rows.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 1], [0, 0, 0]]
    assert lifted.valid.tolist() == [True, True, True, False]


def test_a_fraction_of_each_class_is_kept():
    ids = [2] * 1000 + [1] * 10 + [0] * 50
    op = OneHot(names=("wall", "mug"), fraction=0.01, min_points=2)
    lifted = op(*labels(ids))
    assert lifted.rows.sum(dim=0).tolist() == [10, 2]
    assert torch.equal(op(*labels(ids)).valid, lifted.valid)
    other = dataclasses.replace(op, seed=1)(*labels(ids))
    assert not torch.equal(other.valid, lifted.valid)


def test_more_labels_than_there_are_cannot_be_kept():
    lifted = OneHot(names=("mug",), fraction=0.5, min_points=9)(*labels([1, 1, 1, 0]))
    assert lifted.valid.tolist() == [True, True, True, False]


def test_labels_of_recordings_have_a_column_for_every_class():
    given, cloud = labels([2, 1, 0, -1])
    rows = OneHot()(given)
    assert rows.rows.tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert rows.valid.tolist() == [True, True, True, False]
    assert rows.offsets.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(DataError, match="wanted: names"):
        OneHot()(given, cloud)


def test_some_labels_of_each_class_are_kept():
    ids = [2] * 10 + [1] * 2 + [0] * 5
    op = OneHot(labels_per_class=3)
    kept = op(labels(ids)[0]).valid
    assert [int(kept[torch.tensor(ids) == i].sum()) for i in (0, 1, 2)] == [3, 2, 3]
    assert torch.equal(op(labels(ids)[0]).valid, kept)
    assert not torch.equal(dataclasses.replace(op, seed=1)(labels(ids)[0]).valid, kept)


def test_labels_refuse_another_cloud():
    given, _ = labels([0, 1])
    with pytest.raises(DataError, match="2 labels"):
        OneHot(names=("mug",))(given, labels([0])[1])


def test_labels_refuse_names_that_the_scene_does_not_have():
    with pytest.raises(DataError, match="labels of floor, mug, wall"):
        OneHot(names=("mugg",))(*labels([0, 1]))


# ---- ema, segments of other ops, settings ---------------------------------------------------


def test_the_slow_copy_passes_no_gradient():
    rows = torch.rand(4, 2, requires_grad=True)
    student = Points(xyz=torch.rand(4, 3), offsets=torch.tensor([0, 4]), rows=rows * 2)
    slow = Ema()(student)
    assert slow.rows is not None
    assert not slow.rows.requires_grad
    assert torch.equal(slow.rows, rows * 2)
    bare = dataclasses.replace(student, rows=None)
    assert Ema()(bare).rows is None


def test_super_points_leave_their_number():
    found = LiftSuperpoints()(wall()).segments
    assert found is not None
    assert len(set(found[LEFT].tolist())) == 1
    lifted = LiftPoints(segment_share=0.5)([halves()], depths(), wall())
    assert lifted.segments is not None
    assert torch.equal(lifted.segments, found)
    assert LiftPoints()([halves()], depths(), wall()).segments is None


@pytest.mark.parametrize("op", [MaskSets(), Captions(classes=NAMES), Instances()])
def test_ops_over_views_refuse_several_scenes_and_other_frames(op):
    cloud = dataclasses.replace(wall(), offsets=torch.tensor([0, 100, SIDE * SIDE]))
    with pytest.raises(DataError, match="2 clouds"):
        op([halves()], depths(), cloud)
    with pytest.raises(DataError, match="depth of frame 000"):
        op([halves(name="001")], depths(), wall())


@pytest.mark.parametrize(
    ("op", "settings"),
    [
        (MaskSets, {"margin_m": 0.0}),
        (MaskSets, {"min_points": 0}),
        (MaskSets, {"least_weight": 1.5}),
        (MaskSets, {"half_points": -1.0}),
        (Captions, {"levels": ()}),
        (Captions, {"levels": ("view", "view")}),
        (Captions, {"words": 0}),
        (Captions, {"neighbours": 0}),
        (Captions, {"least_share": -0.1}),
        (Instances, {"threshold": 0.0}),
        (Instances, {"gap_m": 0.0}),
        (Instances, {"min_covered": 1.1}),
        (Instances, {"plane_share": 0.0}),
        (SegmentCrops, {"views_per_segment": 0}),
        (SegmentCrops, {"scales": (0.1,)}),
        (SegmentCrops, {"scales": ()}),
        (OneHot, {"names": (), "other": True}),
        (OneHot, {"names": ("a", "a")}),
        (OneHot, {"labels_per_class": 0}),
        (OneHot, {"labels_per_class": 1, "fraction": 0.5}),
        (OneHot, {"names": ("mug", "mug")}),
        (OneHot, {"names": ("mug",), "fraction": 0.0}),
        (OneHot, {"names": ("mug",), "min_points": 0}),
        (OneHot, {"names": ("mug",), "seed": -1}),
        (Ema, {"decay": 1.0}),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(op, settings):
    with pytest.raises(ValueError, match=list(settings)[-1]):
        op(**settings)
