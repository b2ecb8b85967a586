"""Training through renderings: pictures become right, and every bit can be had again."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lifting.gaussians.harmonics import sh_from_rgb
from lifting.gaussians.image_loss import psnr
from lifting.gaussians.joint import draw_jointly
from tests.train import toy
from tests.xmodal.drawn_scene import CHANNELS, above, floor, frame, frames, rows_of, truth
from xmodal.edges.distill.cosine import Cosine
from xmodal.edges.distill.render import Render
from xmodal.edges.encode.gaussian_head import GaussianHeadOp
from xmodal.edges.encode.splat_scene import SplatSceneOp
from xmodal.errors import DataError, UsageError
from xmodal.splats.frames import frame_at
from xmodal.splats.values import as_gaussians
from xmodal.store import FeatureInfo, Run
from xmodal.train.drawn import predict_splats
from xmodal.train.loop import Augment, Average, Distill, Student, TrainOptions, fit, replay
from xmodal.train.views import Shown, draw_views, shown_points, take_views
from xmodal.values import Frames, Gaussians

CLOUD = floor(200)
SEEN = frames(CLOUD)
RENDER = Distill(Render(self_teach=0.1), "frames", "drawn")
OPTIONS = TrainOptions(
    steps=6, lr=2e-2, crop_points=1000, warmup_steps=1, log_every=1, checkpoint_every=100
)
HEAD = GaussianHeadOp(voxel_m=0.1, inputs=("rgb", "height"))


def grey() -> Gaussians:
    """The floor's splats without their colours, each a little out of its place."""
    splats = as_gaussians(truth(CLOUD))
    aside = torch.randn(200, 3, generator=torch.Generator().manual_seed(4)) * 0.01
    rgb = torch.full((200, 3), 0.5)
    return replace(splats, means=splats.means + aside, sh=sh_from_rgb(rgb))


def scene_student() -> Student:
    torch.manual_seed(3)
    op = SplatSceneOp(width=16)
    return Student(op, op.build(channels=CHANNELS, num_rows=200, space="unit"), "splats")


def head_student(op: GaussianHeadOp = HEAD) -> Student:
    torch.manual_seed(3)
    return Student(op, op.build(channels=CHANNELS, space="unit"), "cloud")


def scene(**changed: Any) -> dict[str, Any]:
    return {"cloud": CLOUD, "splats": grey(), "frames": SEEN} | changed


def train(
    out: Path, student: Student, options: TrainOptions = OPTIONS, **rest: Any
) -> list[dict[str, Any]]:
    nodes, edges = rest.pop("nodes", scene()), rest.pop("edges", [RENDER])
    return fit({"drawn": student}, edges, [nodes], options, out, **rest).history


def held_out_db(student: Student) -> float:
    """PSNR of a view between those that taught."""
    splats = predict_splats(student.op, student.net, grey())  # pyright: ignore[reportArgumentType]
    shown = frame(CLOUD, above(1.0, 1.0))
    with torch.no_grad():
        view = draw_jointly(splats, shown.camera, torch.zeros(200, 0))
    return float(psnr(view.colour, shown.rgb, shown.inside))


def test_pictures_become_right(tmp_path: Path) -> None:
    student = scene_student()
    before = held_out_db(student)
    history = train(tmp_path, student, replace(OPTIONS, steps=40))
    first, last = (float(record["loss"]) for record in (history[0], history[-1]))
    assert last < 0.5 * first
    assert held_out_db(student) > before + 5
    told = torch.cosine_similarity(_rows(student), rows_of(CLOUD), dim=1)
    assert float(told.median()) > 0.9


def _rows(student: Student) -> torch.Tensor:
    with torch.no_grad():
        encoded = student.net.encode(CLOUD.xyz, CLOUD.offsets, student.op.describe(grey()))
        return student.net.decode(encoded)


def test_a_network_learns_from_renderings(tmp_path: Path) -> None:
    student = head_student()
    history = train(tmp_path, student, replace(OPTIONS, steps=12, lr=4e-3))
    assert float(history[-1]["loss"]) < 0.9 * float(history[0]["loss"])


@pytest.mark.parametrize("made", [scene_student, head_student])
def test_a_run_that_goes_on_ends_in_the_same_bits(tmp_path: Path, made: Any) -> None:
    options = replace(OPTIONS, steps=4)
    whole, part = made(), made()
    history = train(tmp_path / "whole", whole, options)
    with pytest.raises(toy.StopHereError):
        train(tmp_path / "part", part, replace(options, checkpoint_every=1),
              progress=toy.stop_at(2))  # fmt: skip
    rest = made()
    tail = train(tmp_path / "part", rest, replace(options, checkpoint_every=1), resume=True)
    assert toy.same(toy.state(rest), toy.state(whole))
    assert toy.losses(tail) == toy.losses(history[2:])


def test_stored_frames_teach_the_same(tmp_path: Path) -> None:
    info = FeatureInfo(
        teacher="floor", space="unit", channels=CHANNELS, num_points=0, num_valid=0,
        fingerprint="f", cosine_error=0.0,
    )  # fmt: skip
    run = Run(tmp_path / "run")
    run.write_frames("frames", info, SEEN)
    fresh, stored = scene_student(), scene_student()
    history = train(tmp_path / "a", fresh)
    again = train(tmp_path / "b", stored, nodes=scene(frames=run.frames("frames")))
    assert toy.losses(again) == toy.losses(history)
    assert toy.same(toy.state(stored), toy.state(fresh))


def test_a_failed_step_is_replayed(tmp_path: Path) -> None:
    rows = SEEN.rows.clone()
    rows[60] = float("nan")
    nodes = scene(frames=replace(SEEN, rows=rows))
    with pytest.raises(DataError, match="frames row 60"):
        train(tmp_path, scene_student(), replace(OPTIONS, steps=40), nodes=nodes)
    file = next(tmp_path.glob("failed-step-*.json"))
    found = replay(file, {"drawn": scene_student()}, [RENDER], [nodes], replace(OPTIONS, steps=40))
    assert found.same
    assert math.isnan(found.loss)


def test_points_and_pictures_teach_together(tmp_path: Path) -> None:
    lifted = replace(
        CLOUD, rows=rows_of(CLOUD), valid=torch.arange(200) % 3 > 0, weight=torch.ones(200)
    )
    edges = [RENDER, Distill(Cosine(), "lifted", "drawn")]
    history = train(tmp_path, head_student(), edges=edges, nodes=scene(lifted=lifted))
    assert set(history[0]["losses"]) == {"frames -> drawn", "lifted -> drawn"}
    assert all(math.isfinite(record["loss"]) for record in history)


# ---- which points a view shows -------------------------------------------------------------------


def test_views_show_what_is_before_them() -> None:
    shown = shown_points(SEEN, CLOUD.xyz)
    for index, rows in enumerate(shown):
        camera = frame_at(SEEN, index).camera
        away = (CLOUD.xyz[rows] - camera.centre)[:, :2].abs()
        # Half of the picture is 12 / 24 and 9 / 24 of 1.6 m, a tenth of its size more at a border.
        assert float(away[:, 0].max()) < 1.6 * 0.6 + 0.01
        assert float(away[:, 1].max()) < 1.6 * 0.475 + 0.01
        assert len(rows) > 60
        depth_m = camera.centre[2] - CLOUD.xyz[rows, 2]
        assert bool((depth_m.diff() >= 0).all())


def test_points_behind_what_was_read_are_left_out() -> None:
    far = CLOUD.xyz - torch.tensor([0, 0, 0.5])
    below = shown_points(SEEN, torch.cat((CLOUD.xyz, far)))
    for rows, alone in zip(below, shown_points(SEEN, CLOUD.xyz), strict=True):
        kept = rows[rows < 200]
        assert torch.equal(kept.sort().values, alone.sort().values)
        # At the border of the picture nothing was read that could hide them.
        assert len(rows) - len(kept) < 0.4 * len(kept)


def test_a_step_of_few_points_compares_near_pixels_only() -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    shown = shown_points(SEEN, CLOUD.xyz)
    views, rows = draw_views(SEEN, shown, CLOUD.xyz, rng, num=2, most=60)
    assert len(views) == 2
    assert len(rows) <= 60
    assert bool((rows.diff() > 0).all())
    taken = take_views(SEEN, views, "cpu")
    assert int(taken.inside.sum()) < int(take_views(SEEN, [Shown(v.view) for v in views],
                                                    "cpu").inside.sum())  # fmt: skip
    whole, every = draw_views(SEEN, shown, CLOUD.xyz, rng, num=99, most=10_000)
    assert [view.view for view in whole] == [0, 1, 2, 3]
    assert all(view.far_m == math.inf for view in whole)
    assert len(every) == len(torch.cat(shown).unique())


def test_one_view_is_enough(tmp_path: Path) -> None:
    one = frames(CLOUD, ((1.0, 1.0),))
    history = train(tmp_path, scene_student(), nodes=scene(frames=one))
    assert float(history[-1]["loss"]) < float(history[0]["loss"])


def test_views_that_show_nothing_are_never_drawn(tmp_path: Path) -> None:
    mixed = frames(CLOUD, ((50.0, 0.0), (1.0, 1.0)))
    history = train(tmp_path / "a", scene_student(), nodes=scene(frames=mixed))
    one = train(tmp_path / "b", scene_student(), nodes=scene(frames=frames(CLOUD, ((1.0, 1.0),))))
    assert [record["loss"] for record in history] == [record["loss"] for record in one]


def test_no_view_shows_a_point(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none that a teacher saw"):
        train(tmp_path, scene_student(), nodes=scene(frames=frames(CLOUD, ((50.0, 0.0),))))


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rotate_rad", "flip", "scale", "elastic_m", "input_jitter"])
def test_pieces_stay_where_cameras_look(tmp_path: Path, name: str) -> None:
    augment = Augment(**{name: 0.1})  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match=name):
        train(tmp_path, head_student(), replace(OPTIONS, augment=augment))


def test_an_average_of_a_wider_view_has_none(tmp_path: Path) -> None:
    edges = [RENDER, Distill(Cosine(), "slow", "drawn")]
    averages = {"slow": Average(student="drawn", decay=0.9, view="global")}
    with pytest.raises(UsageError, match="view: same"):
        train(tmp_path, head_student(), edges=edges, averages=averages)


def test_frames_are_no_cloud(tmp_path: Path) -> None:
    student = head_student()
    with pytest.raises(DataError, match="points at frames"):
        train(tmp_path, Student(student.op, student.net, "frames"))


def test_a_slow_copy_teaches_rows(tmp_path: Path) -> None:
    edges = [RENDER, Distill(Cosine(), "slow", "drawn")]
    averages = {"slow": Average(student="drawn", decay=0.9, view="same")}
    history = train(tmp_path, head_student(), edges=edges, averages=averages)
    assert all(math.isfinite(record["loss"]) for record in history)


def test_frames_of_no_view_cannot_be_had() -> None:
    empty: Frames = replace(SEEN, hw=SEEN.hw[:0], K=SEEN.K[:0], T_world_cam=SEEN.T_world_cam[:0])
    assert shown_points(empty, CLOUD.xyz) == []
