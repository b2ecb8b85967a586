"""The ops `frames` and `render`, and the students they teach."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from lifting.cameras import Camera
from lifting.gaussians.image_loss import depth_l1, photo_loss
from lifting.gaussians.joint import draw_jointly, near_surface
from lifting.gaussians.splats import Splats
from lifting.operator import LiftOperator
from tests.xmodal.drawn_scene import (
    CHANNELS,
    GRID,
    HW,
    above,
    floor,
    frame,
    frames,
    rows_of,
    truth,
)
from xmodal import losses
from xmodal.edges.distill.render import Render
from xmodal.edges.lift.frames import LiftFrames
from xmodal.errors import DataError
from xmodal.splats.frames import Frame, frame_at, stack_frames
from xmodal.splats.values import as_gaussians
from xmodal.values import Depth, FeatureMap, Frames, Gaussians, Image

CLOUD = floor(120)


def given(cloud: Any = CLOUD, **changed: Any) -> Gaussians:
    """The floor's true splats with their true rows."""
    return replace(as_gaussians(truth(cloud)), rows=rows_of(cloud), **changed)


def in_double(value: Gaussians) -> Gaussians:
    parts = {name: getattr(value, name).double() for name in ("means", "quats", "scales")}
    more = {name: getattr(value, name).double() for name in ("opacities", "sh", "rows")}
    return replace(value, **parts, **more)


def test_the_truth_has_hardly_a_loss() -> None:
    seen, bad = frames(CLOUD), given()
    assert bad.rows is not None
    bad = replace(bad, rows=bad.rows.flip(0), sh=None if bad.sh is None else bad.sh.flip(0))
    # Patches show mixtures of rows, and pixels with little light are not compared: not quite 0.
    right = Render(depth=1.0)(seen, given())
    assert float(right) < 0.02
    assert float(Render(depth=1.0)(seen, bad)) > 5 * float(right)


def test_the_parts_add_up() -> None:
    seen = stack_frames([frame(CLOUD, above(1, 1))])
    shown, wrong = frame_at(seen, 0), given(means=CLOUD.xyz + torch.tensor([0.05, 0, 0.1]))
    assert wrong.rows is not None
    assert wrong.sh is not None
    splats = Splats(
        means=wrong.means, quats=wrong.quats, scales=wrong.scales,
        opacities=wrong.opacities, sh=wrong.sh,
    )  # fmt: skip
    view = draw_jointly(splats, shown.camera, wrong.rows)
    colour = photo_loss(view.colour, shown.rgb, dssim=0.2, valid=shown.inside)
    depth = depth_l1(view.depth_m, shown.depth_m, shown.inside)
    inside = shown.inside.flatten().float()
    pool = shown.taps.to_dense().T * inside
    alpha = pool @ view.alpha.flatten()
    used = alpha > 0
    features = losses.cosine(shown.rows[used], (pool @ view.features)[used], weight=alpha[used])
    taught = losses.shown_rows(view.features, wrong.rows, near_surface(view, 0.05))
    op = Render(colour=2.0, depth=3.0, features=0.7, self_teach=0.4, band_m=0.05)
    wanted = 2 * colour + 3 * depth + 0.7 * features + 0.4 * taught
    assert float(op(seen, wrong)) == pytest.approx(float(wanted), rel=1e-5)


def test_views_are_averaged() -> None:
    seen, wrong = frames(CLOUD), given(means=CLOUD.xyz + 0.03)
    whole = Render()(seen, wrong)
    each = [Render()(stack_frames([frame_at(seen, i)]), wrong) for i in range(4)]
    assert float(whole) == pytest.approx(float(torch.stack(each).mean()), rel=1e-5)


def picture_of_one_patch() -> Frames:
    """4 x 5 pixels in double precision: how much a patch counts cancels where there is but one."""
    chance = torch.Generator().manual_seed(1)
    pixels = torch.arange(20)
    taps = LiftOperator.from_coo(pixels, pixels * 0, torch.ones(20).double(), shape=(20, 1))
    view = Frame(
        rgb=torch.rand(3, 4, 5, generator=chance).double(),
        depth_m=torch.rand(4, 5, generator=chance).double() + 3,
        inside=torch.ones(4, 5, dtype=torch.bool),
        camera=Camera(
            K=torch.tensor([[5.0, 0, 2.5], [0, 5.0, 2], [0, 0, 1]]),
            T_world_cam=above(1.03, 1.01).T_world_cam,
            hw=(4, 5),
        ),
        rows=torch.rand(1, CHANNELS, generator=chance).double(),
        valid=torch.ones(1, dtype=torch.bool),
        weight=torch.ones(1).double(),
        taps=taps,
    )
    return stack_frames([view])


@pytest.mark.parametrize("name", ["means", "quats", "scales", "opacities", "sh", "rows"])
def test_gradients_through_the_renderer(name: str) -> None:
    splats, seen = in_double(given(floor(3))), picture_of_one_patch()
    thick = torch.tensor([0.5, 0.3, 0.4]).double()
    splats = replace(splats, scales=thick.repeat(3, 1), opacities=splats.opacities * 0.6)
    op = Render(colour=0.6, depth=0.2, features=0.8, dssim=0.3)

    def loss(value: torch.Tensor) -> torch.Tensor:
        return op(seen, replace(splats, **{name: value}))

    value = getattr(splats, name).clone().requires_grad_()
    assert torch.autograd.gradcheck(loss, (value,), eps=1e-7, atol=1e-6, rtol=1e-4, fast_mode=True)


def test_self_teaching_moves_rows_only() -> None:
    splats = given()
    means = splats.means.clone().requires_grad_()
    assert splats.rows is not None
    rows = splats.rows.clone().requires_grad_()
    seen = stack_frames([frame(CLOUD, above(1, 1))])
    both = [
        Render(colour=0.0, depth=0.0, self_teach=share)(
            seen, replace(splats, means=means, rows=rows)
        )
        for share in (0.0, 1.0)
    ]
    found = torch.autograd.grad(both[1] - both[0], (means, rows), allow_unused=True)
    assert found[0] is None or float(found[0].abs().max()) < 1e-6
    assert float(found[1].abs().max()) > 0


@pytest.mark.parametrize("name", ["means", "opacities", "rows", "sh"])
def test_a_splat_that_is_not_finite_is_a_loss_of_nan(name: str) -> None:
    splats = given()
    bad = getattr(splats, name).clone()
    bad.view(-1)[3] = float("nan")
    loss = Render()(frames(CLOUD), replace(splats, **{name: bad}))
    assert bool(loss.isnan())


def test_a_teacher_row_that_is_not_finite_is_a_loss_of_nan() -> None:
    seen = frames(CLOUD)
    rows = seen.rows.clone()
    rows[20] = float("nan")
    assert bool(Render()(replace(seen, rows=rows), given()).isnan())


def test_a_view_of_nothing_has_no_loss() -> None:
    away = replace(above(1, 1), T_world_cam=torch.eye(4))
    T = torch.eye(4)
    T[:3, 3] = torch.tensor([1.0, 1.0, 3.0])
    blind = frame(CLOUD, replace(away, T_world_cam=T))
    assert not bool(blind.inside.any())
    splats = given()
    assert splats.rows is not None
    rows = splats.rows.clone().requires_grad_()
    loss = Render(self_teach=1.0)(stack_frames([blind]), replace(splats, rows=rows))
    loss.backward()
    assert float(loss.detach()) == 0
    assert rows.grad is not None
    assert float(rows.grad.abs().max()) == 0


def test_a_camera_inside_a_splat_learns_finite_things() -> None:
    seen = stack_frames([frame(CLOUD, above(1, 1, 0.03))])
    splats = given(scales=torch.full((120, 3), 0.3))
    means = splats.means.clone().requires_grad_()
    Render(self_teach=1.0)(seen, replace(splats, means=means)).backward()
    assert means.grad is not None
    assert bool(means.grad.isfinite().all())


def test_probabilities_are_compared_as_such() -> None:
    seen = frames(CLOUD)
    chance = seen.rows.abs() / seen.rows.abs().sum(1, keepdim=True).clamp_min(1e-6)
    splats = given()
    assert splats.rows is not None
    told = Render(colour=0.0, depth=0.0, by="kl")
    even = replace(splats, rows=torch.full_like(splats.rows, 0.25))
    near = replace(splats, rows=splats.rows.abs() / splats.rows.abs().sum(1, keepdim=True))
    probable = replace(seen, rows=chance)
    assert float(told(probable, near)) < float(told(probable, even))
    assert told.teacher_spaces == ("simplex",)


def test_a_projection_decodes_what_is_rendered() -> None:
    op = Render(colour=0.0, depth=0.0, project="linear")
    net = op.build(channels=3, teacher_channels=CHANNELS)
    assert isinstance(net, nn.Module)
    narrow = given()
    narrow = replace(narrow, rows=torch.rand(120, 3))
    op(frames(CLOUD), narrow, net=net).backward()
    assert all(p.grad is not None for p in net.parameters())
    assert Render().build(channels=4, teacher_channels=4) is None


@pytest.mark.parametrize(
    ("splats", "seen", "told"),
    [
        (replace(given(), rows=None), frames(CLOUD), "without rows"),
        (replace(given(), offsets=torch.tensor([0, 60, 120])), frames(CLOUD), "2 scenes"),
    ],
)
def test_what_cannot_be_rendered(splats: Gaussians, seen: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        Render()(seen, splats)


@pytest.mark.parametrize(
    "wrong",
    [
        {"weight": 0.0}, {"views": 0}, {"colour": -1.0}, {"depth": float("nan")},
        {"colour": 0.0, "depth": 0.0, "features": 0.0}, {"dssim": 1.5}, {"band_m": 0.0},
        {"project": "linear", "features": 0.0}, {"self_teach": -0.1},
    ],
)  # fmt: skip
def test_settings_of_render(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Render(**wrong)


# ---- the lift ------------------------------------------------------------------------------------


def views(num: int = 6, scale: int = 4) -> tuple[list[Image], list[Depth], list[FeatureMap]]:
    """Pictures four times as large as the frames, with depth and a map of patches."""
    images: list[Image] = []
    depths: list[Depth] = []
    maps: list[FeatureMap] = []
    for index in range(num):
        drawn = frame(CLOUD, above(0.6 + 0.1 * index, 1.0))
        hw = (HW[0] * scale, HW[1] * scale)
        K = drawn.camera.K * torch.tensor([[scale], [scale], [1.0]])
        camera = replace(drawn.camera, K=K, hw=hw)
        name = f"{index:03d}"
        rgb = drawn.rgb.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
        far = drawn.depth_m.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
        images.append(Image(rgb=rgb, camera=camera, name=name))
        depths.append(Depth(depth_m=far, camera=camera, name=name))
        told = {"rows": drawn.rows, "valid": drawn.valid, "weight": drawn.weight}
        maps.append(FeatureMap(**told, grid_hw=GRID, camera=camera, name=name))
    return images, depths, maps


def test_views_are_kept_small() -> None:
    images, depths, maps = views(2)
    kept = LiftFrames(max_side_px=24)(images, depths, maps)
    small = frame_at(kept, 0)
    assert small.camera.hw == HW
    assert torch.allclose(small.camera.K, torch.tensor([[24.0, 0, 12], [0, 24, 9], [0, 0, 1]]))
    drawn = frame(CLOUD, above(0.6, 1.0))
    assert torch.allclose(small.rgb, drawn.rgb, atol=1e-5)
    assert torch.allclose(small.depth_m, drawn.depth_m, atol=1e-5)
    assert torch.equal(small.inside, drawn.depth_m > 0)
    assert torch.equal(small.rows, drawn.rows)


def test_without_depth_all_pixels_count() -> None:
    images, _, maps = views(1)
    kept = LiftFrames(max_side_px=24)(images, None, maps)
    assert bool(kept.inside.all())
    assert float(kept.depth_m.max()) == 0
    # Then depth teaches nothing, and colours still do.
    assert float(Render(colour=0.0, features=0.0)(kept, given())) == 0
    assert float(Render()(kept, given(means=CLOUD.xyz + 0.1))) > 0


def test_views_are_evenly_chosen_and_held_out() -> None:
    images, _, _ = views(6)
    assert LiftFrames().chosen(images) == [0, 1, 2, 3, 4, 5]
    assert LiftFrames(num_views=2).chosen(images) == [1, 4]
    assert LiftFrames(num_views=99, hold_out=3).chosen(images) == [1, 2, 4, 5]
    assert LiftFrames(num_views=1).chosen(images[:1]) == [0]


def test_frames_that_do_not_belong_together() -> None:
    images, depths, maps = views(2)
    with pytest.raises(DataError, match="one map for each of 2"):
        LiftFrames()(images, depths, maps[:1])
    with pytest.raises(DataError, match="one depth map for each of 2"):
        LiftFrames()(images, depths[:1], maps)
    with pytest.raises(DataError, match="not held out"):
        LiftFrames(hold_out=2)(images[:1], None, maps[:1])
    with pytest.raises(DataError, match="picture 000 beside depth or features of 001"):
        LiftFrames()(images, depths, maps[::-1])
    with pytest.raises(DataError, match="picture 000 beside depth or features of 001"):
        LiftFrames()(images, depths[::-1], maps)
    wide = replace(maps[1], rows=torch.rand(len(maps[1].rows), 7))
    with pytest.raises(DataError, match="one width"):
        LiftFrames()(images, depths, [maps[0], wide])


@pytest.mark.parametrize("wrong", [{"max_side_px": 0}, {"num_views": 0}, {"hold_out": 1}])
def test_settings_of_frames(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LiftFrames(**wrong)
