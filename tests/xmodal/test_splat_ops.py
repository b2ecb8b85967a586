"""Ops over splats: fit, lift, sets, field; and a graph of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from lifting.cameras import Camera, pixel_centres
from lifting.gaussians.rendering import render
from lifting.gaussians.splats import Splats
from lifting.operator import LiftOperator
from xmodal.config.problems import ConfigReportError
from xmodal.edges import op_class
from xmodal.errors import DataError
from xmodal.graph import Graph
from xmodal.splats.values import as_gaussians, as_splats, centres
from xmodal.values import Depth, FeatureMap, Gaussians, Image, Masks, Points, PointSets

HW = (24, 32)


def looking_from(x_m: float) -> Camera:
    T = torch.eye(4)
    T[0, 3] = x_m
    return Camera(K=torch.tensor([[30.0, 0, 16], [0, 30.0, 12], [0, 0, 1]]), T_world_cam=T, hw=HW)


CAMERAS = [looking_from(x) for x in (-0.2, 0.0, 0.2)]


@pytest.fixture(scope="module")
def wall() -> Splats:
    """A wall of flat splats 1 m ahead, the left half red and the right half blue."""
    y, x = torch.meshgrid(
        torch.arange(-0.6, 0.6, 0.06), torch.arange(-1.0, 1.0, 0.06), indexing="ij"
    )
    means = torch.stack((x, y, torch.ones_like(x)), -1).reshape(-1, 3)
    red = (means[:, :1] < 0).float()
    rgb = torch.cat((red, torch.zeros_like(red), 1 - red), 1)
    return Splats(
        means=means,
        quats=torch.tensor([1.0, 0, 0, 0]).repeat(len(means), 1),
        scales=torch.tensor([0.04, 0.04, 0.004]).repeat(len(means), 1),
        opacities=torch.full((len(means),), 0.95),
        sh=((rgb - 0.5) / 0.28209479)[:, None],
    )


@pytest.fixture(scope="module")
def pictures(wall: Splats) -> list[Image]:
    return [
        Image(rgb=render(wall, camera).colour.clamp(0, 1), camera=camera, name=str(i))
        for i, camera in enumerate(CAMERAS)
    ]


@pytest.fixture(scope="module")
def cloud(wall: Splats) -> Points:
    return centres(as_gaussians(wall))


def maps_of(pictures: list[Image]) -> list[FeatureMap]:
    """What a teacher of colour would say: (is red, is blue) on patches of 4 x 4 pixels."""
    maps: list[FeatureMap] = []
    for picture in pictures:
        rows = torch.nn.functional.avg_pool2d(picture.rgb[None], 4)[0][[0, 2]].flatten(1).T
        maps.append(
            FeatureMap(
                rows=rows.contiguous(),
                valid=torch.ones(len(rows), dtype=torch.bool),
                weight=torch.ones(len(rows)),
                grid_hw=(HW[0] // 4, HW[1] // 4),
                camera=picture.camera,
                name=picture.name,
            )
        )
    return maps


def masks_of(pictures: list[Image]) -> list[Masks]:
    """The left and the right half of each picture as masks, and one of both."""
    left = pixel_centres(HW)[:, 0] < HW[1] / 2
    row = torch.arange(HW[0] * HW[1])
    pixels, mask = torch.cat((row, row)), torch.cat((torch.where(left, 0, 1), row * 0 + 2))
    membership = LiftOperator.from_coo(pixels, mask, torch.ones(len(pixels)), shape=(len(row), 3))
    return [
        Masks(
            rows=torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]),
            valid=torch.ones(3, dtype=torch.bool),
            weight=torch.ones(3),
            membership=membership,
            grid_hw=HW,
            camera=picture.camera,
            name=picture.name,
        )
        for picture in pictures
    ]


def op(verb: Any, name: str, **settings: Any) -> Any:
    return op_class(verb, name)(**settings)


# ---- values --------------------------------------------------------------------------------------


def test_splats_go_through_the_graph_unchanged(wall: Splats) -> None:
    back = as_splats(as_gaussians(wall), "here")
    assert torch.equal(back.means, wall.means)
    assert back.sh is not None


def test_splats_of_two_scenes_are_refused(wall: Splats) -> None:
    both = replace(as_gaussians(wall), offsets=torch.tensor([0, 5, len(wall)]))
    with pytest.raises(DataError, match="splats of 2 scenes"):
        as_splats(both, "lift")


def test_splats_that_are_none_are_refused(wall: Splats) -> None:
    broken = replace(as_gaussians(wall), scales=-wall.scales)
    with pytest.raises(DataError, match="scales must be finite and above 0"):
        as_splats(broken, "lift")


def test_centres_have_the_even_part_of_colour(cloud: Points) -> None:
    assert cloud.rgb is not None
    assert cloud.rgb[0].tolist() == pytest.approx([1, 0, 0], abs=1e-5)


# ---- fit -----------------------------------------------------------------------------------------


def test_points_are_splats_without_a_step(pictures: list[Image], cloud: Points) -> None:
    made = op("lift", "fit_splats", steps=0, strategy="none")(pictures, None, cloud)
    assert isinstance(made, Gaussians)
    assert torch.equal(made.means, cloud.xyz)
    assert made.rows is None


def test_a_fit_comes_closer_to_the_pictures(pictures: list[Image], cloud: Points) -> None:
    grey = replace(cloud, rgb=torch.full_like(cloud.xyz, 0.5))
    fit = op("lift", "fit_splats", steps=60, strategy="none", sh_degree=0, opacity=0.9)
    seen: list[tuple[int, int]] = []
    made = fit(pictures, None, grey, progress=lambda done, total: seen.append((done, total)))
    shown = render(as_splats(made, "test"), CAMERAS[1]).colour
    before = render(as_splats(as_gaussians(_from(grey)), "test"), CAMERAS[1]).colour
    target = pictures[1].rgb
    assert (shown - target).abs().mean() < 0.95 * (before - target).abs().mean()
    assert seen[-1] == (60, 60)


def _from(cloud: Points) -> Splats:
    from lifting.gaussians.initialise import splats_from_points

    return splats_from_points(cloud.xyz, cloud.rgb, opacity=0.9)


def test_a_cloud_that_is_too_large_is_thinned(pictures: list[Image], cloud: Points) -> None:
    made = op("lift", "fit_splats", num=40, steps=0, strategy="none")(pictures, None, cloud)
    assert len(made.means) == 40


def test_pictures_that_are_held_out(pictures: list[Image]) -> None:
    fit = op("lift", "fit_splats", hold_out=2)
    assert fit.tested(pictures) == [0, 2]
    assert fit.fitted(pictures) == [1]


def test_photos_alone_start_at_random(pictures: list[Image]) -> None:
    fit = op("lift", "fit_splats", start="random", num=60, steps=3, strategy="none", sh_degree=0)
    made = fit(pictures, None, None)
    assert len(made.means) == 60
    assert torch.isfinite(made.means).all()


def test_a_sweep_needs_photos_that_agree(pictures: list[Image]) -> None:
    grey = [replace(p, rgb=torch.full_like(p.rgb, 0.5)) for p in pictures]
    with pytest.raises(DataError, match="no two photos agree"):
        op("lift", "fit_splats", start="sweep", steps=3)(grey, None, None)


@pytest.mark.parametrize("start", ["cloud", "both"])
def test_a_start_from_points_needs_points(pictures: list[Image], start: str) -> None:
    with pytest.raises(DataError, match="points to start from"):
        op("lift", "fit_splats", start=start, steps=1)(pictures, None, None)


def textured(camera: Camera) -> Image:
    """A wall at 1 m with a pattern that repeats nowhere."""
    xy = (pixel_centres((48, 64)) - torch.tensor([32.0, 24.0])) / 60 + camera.T_world_cam[:2, 3]
    x, y = (xy * 20).unbind(1)
    rgb = torch.stack((torch.sin(x + y * y / 9), torch.sin(1.7 * y - x), torch.sin(x * y / 7)))
    K = torch.tensor([[60.0, 0, 32], [0, 60.0, 24], [0, 0, 1]])
    seen = replace(camera, K=K, hw=(48, 64))
    name = f"{float(camera.T_world_cam[0, 3]):g}"
    return Image(rgb=(rgb / 2 + 0.5).reshape(3, 48, 64), camera=seen, name=name)


@pytest.mark.parametrize("num", [60, 300])
@pytest.mark.parametrize("colours", [False, True])
def test_few_points_are_joined_by_a_sweep(num: int, colours: bool) -> None:
    """At most half of the splats are the cloud's where a sweep has enough to fill the rest."""
    photos = [textured(camera) for camera in CAMERAS]
    xyz = torch.rand(80, 3, generator=torch.Generator().manual_seed(0)) * 0.6 - 0.3
    xyz[:, 2] = 1.0
    cloud = Points(
        xyz=xyz, offsets=torch.tensor([0, 80]), rgb=torch.ones_like(xyz) if colours else None
    )
    fit = op("lift", "fit_splats", start="both", num=num, steps=1, strategy="none")
    made = fit(photos, None, cloud)
    assert len(made.means) == num
    # A step moves centres by next to nothing.
    from_cloud = (torch.cdist(made.means, xyz).amin(1) < 0.02).sum()
    assert int(from_cloud) >= min(num // 2, 80)
    assert (made.means[:, 2] - 1).abs().median() < 0.05


def test_a_cloud_is_enough_where_nothing_has_texture(pictures: list[Image], cloud: Points) -> None:
    grey = [replace(p, rgb=torch.full_like(p.rgb, 0.5)) for p in pictures]
    made = op("lift", "fit_splats", start="both", steps=1, strategy="none")(grey, None, cloud)
    assert len(made.means) == len(cloud.xyz)


def test_a_weight_of_depth_needs_depth(pictures: list[Image], cloud: Points) -> None:
    with pytest.raises(DataError, match="pictures alone"):
        op("lift", "fit_splats", depth_weight=1.0)(pictures, None, cloud)


def test_depth_maps_are_fitted(pictures: list[Image], cloud: Points) -> None:
    depth = [
        Depth(depth_m=torch.full((12, 16), 1.0), camera=_half(c), name=str(i))
        for i, c in enumerate(CAMERAS)
    ]
    pushed = replace(cloud, xyz=cloud.xyz + torch.tensor([0.0, 0.0, 0.1]))
    fit = op("lift", "fit_splats", steps=40, strategy="none", depth_weight=1.0, opacity=0.9)
    made = fit(pictures, depth, pushed)
    assert (made.means[:, 2] - 1).abs().mean() < 0.1


def _half(camera: Camera) -> Camera:
    from lifting.cameras import scale_camera

    return scale_camera(camera, (12, 16))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"num": 0}, "num must be 1 or more"),
        ({"max_side_px": 0}, "max_side_px must be 1 or more"),
        ({"steps": -1}, "steps must be 1 or more"),
        ({"steps": 0, "start": "random"}, "steps must be 1 or more"),
        ({"steps": 0, "start": "sweep"}, "steps must be 1 or more"),
        ({"steps": 0, "start": "both"}, "steps must be 1 or more"),
        ({"num": 10, "max_splats": 5}, "max_splats must be num"),
        ({"opacity": 0.0}, "opacity must be above 0"),
        ({"hold_out": 1}, "hold_out must be 2 or more"),
        ({"steps": 0, "hold_out": 8}, "hold_out has no effect"),
        ({"steps": 0, "max_splats": 90_000}, "max_splats has no effect"),
        ({"strategy": "none", "max_splats": 90_000}, "no effect with strategy: none"),
    ],
)
def test_settings_of_a_fit_are_checked(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        op("lift", "fit_splats", **settings)


# ---- lift ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["mean", "robust", "solve"])
def test_splats_get_what_the_teacher_saw(how: str, wall: Splats, pictures: list[Image]) -> None:
    lifted = op("lift", "splats", how=how)(maps_of(pictures), as_gaussians(wall))
    assert lifted.valid is not None
    assert lifted.num_views is not None
    inner = lifted.valid & (wall.means[:, 0].abs() > 0.1) & (lifted.num_views == 3)
    red = wall.means[:, 0] < 0
    assert (lifted.rows[inner & red, 0] > lifted.rows[inner & red, 1]).all()
    assert (lifted.rows[inner & ~red, 1] > lifted.rows[inner & ~red, 0]).all()


def test_rows_go_where_they_are_asked_to(wall: Splats, pictures: list[Image]) -> None:
    out = torch.empty(len(wall), 2)
    seen: list[int] = []
    lifted = op("lift", "splats")(
        maps_of(pictures), as_gaussians(wall), out=out, progress=lambda done, _: seen.append(done)
    )
    assert lifted.rows.data_ptr() == out.data_ptr()
    assert seen == [1, 2, 3]


def test_frames_of_two_widths_are_refused(wall: Splats, pictures: list[Image]) -> None:
    maps = maps_of(pictures)
    maps[1] = replace(maps[1], rows=torch.rand(len(maps[1].rows), 5))
    with pytest.raises(DataError, match="channels"):
        op("lift", "splats")(maps, as_gaussians(wall))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"max_side_px": 0}, "max_side_px"),
        ({"ridge": 1.0}, "ridge has no effect with how: mean"),
        ({"max_iterations": 5, "how": "robust"}, "max_iterations has no effect"),
        ({"ridge": -1.0, "how": "solve"}, "ridge must be 0 or more"),
        ({"max_iterations": 0, "how": "solve"}, "max_iterations must be 1"),
    ],
)
def test_settings_of_a_lift_are_checked(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        op("lift", "splats", **settings)


# ---- sets ----------------------------------------------------------------------------------------


def test_every_patch_is_a_set_of_what_it_shows(wall: Splats, pictures: list[Image]) -> None:
    sets = op("lift", "splat_sets", keep=1.0)(maps_of(pictures), as_gaussians(wall))
    assert isinstance(sets, PointSets)
    assert sets.membership.shape == (len(sets.rows), len(wall))
    # Rendering colours through the sets gives what the teacher saw in the patches.
    is_red = (wall.means[:, :1] < 0).float()
    shown = sets.membership.mean().apply(torch.cat((is_red, 1 - is_red), 1))
    assert (shown - sets.rows / sets.rows.sum(1, keepdim=True)).abs().mean() < 0.02


def test_masks_of_one_level(wall: Splats, pictures: list[Image]) -> None:
    given = as_gaussians(wall)
    small = op("lift", "splat_sets", level="smallest")(masks_of(pictures), given)
    large = op("lift", "splat_sets", level="largest")(masks_of(pictures), given)
    assert set(small.rows[:, 0].tolist()) == {0.0, 1.0}
    assert set(large.rows[:, 0].tolist()) == {0.5}


def test_a_level_needs_masks(wall: Splats, pictures: list[Image]) -> None:
    with pytest.raises(DataError, match="a teacher without masks"):
        op("lift", "splat_sets", level="smallest")(maps_of(pictures), as_gaussians(wall))


@pytest.mark.parametrize("settings", [{"keep": 0.0}, {"least_alpha": 1.5}, {"max_side_px": 0}])
def test_settings_of_sets_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        op("lift", "splat_sets", **settings)


# ---- graph ---------------------------------------------------------------------------------------

GRAPH = """
name: field
nodes:
  cameras: {kind: image}
  cloud:   {kind: points}
  maps:    {kind: feature_map, channels: 384}
  splats:  {kind: gaussians}
  lifted:  {kind: gaussians, channels: 384, on: splats}
  seen:    {kind: point_sets, channels: 384, on: splats}
  field:   {kind: gaussians, channels: 8, on: splats}
encode:
  cameras -> maps: {op: imagenet_dense}
  splats -> field: {op: splat_field}
lift:
  cameras, cloud -> splats: {op: fit_splats, steps: 0, strategy: none}
  maps, splats -> lifted: {op: splats}
  maps, splats -> seen: {op: splat_sets}
distill:
  seen -> field: {op: set_cosine, project: mlp, decode: sets}
"""


def test_a_field_learns_through_what_views_show() -> None:
    graph = Graph.from_yaml(GRAPH)
    assert set(graph.frozen_nodes()) == {"splats", "maps", "lifted", "seen"}
    nets = graph.build_nets(num_rows=70)
    assert nets["field"].rows.shape == (70, 8)
    assert Graph.from_yaml(graph.to_yaml()) == graph


def test_a_field_without_splats_is_refused() -> None:
    with pytest.raises(DataError, match="the splats of one scene"):
        Graph.from_yaml(GRAPH).build_nets()


def test_sets_of_splats_teach_no_points() -> None:
    text = GRAPH.replace("field:   {kind: gaussians, channels: 8, on: splats}",
                         "field:   {kind: points, channels: 8, on: cloud}")  # fmt: skip
    text = text.replace("splats -> field: {op: splat_field}", "cloud -> field: {op: sparse_unet}")
    with pytest.raises(ConfigReportError, match="equal supports"):
        Graph.from_yaml(text)


def test_decoding_sets_needs_a_projection() -> None:
    with pytest.raises(ConfigReportError, match="project is none"):
        Graph.from_yaml(GRAPH.replace("project: mlp, decode: sets", "decode: sets"))


def test_a_field_is_a_student_by_number(wall: Splats) -> None:
    field = op("encode", "splat_field")
    net = field.build(channels=4, num_rows=len(wall))
    told = field(net, as_gaussians(wall))
    assert torch.equal(told.rows, net.rows)
    assert torch.equal(told.means, wall.means)
