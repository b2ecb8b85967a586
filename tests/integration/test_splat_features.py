"""Features of new views: what is drawn of splats beside what a teacher says of frames."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lifting.cameras import Camera, pixel_centres
from lifting.gaussians.closed_form import SplatView
from lifting.gaussians.splats import Splats
from lifting.operator import LiftOperator
from xmodal.config.runfile import load_run
from xmodal.datasets import open_scene
from xmodal.edges import op_class
from xmodal.edges.lift.held_out import ChosenViews, left_in, left_out, view_names
from xmodal.errors import DataError, UsageError
from xmodal.graph import Graph
from xmodal.runs.evaluate import EvalRequest, eval_run
from xmodal.runs.evaluate.features import drawn_view, frame_scores, judged_frames
from xmodal.runs.frozen import silent
from xmodal.runs.lift import LiftRequest, lift_run
from xmodal.runs.localise import localisation_tables
from xmodal.runs.opened import open_run
from xmodal.runs.train import TrainRequest, train_run
from xmodal.splats.drawing import SplatRenderer, composited
from xmodal.store import FeatureInfo, Features, Run
from xmodal.values import FeatureMap, Image, Masks
from xmodal.world import WorldOptions, make_world

pytestmark = pytest.mark.usefixtures("packaged_weights")

FIELD = """
name: field
graph:
  name: field
  nodes:
    cameras: {kind: image}
    cloud:   {kind: points}
    maps:    {kind: feature_map, channels: 384}
    splats:  {kind: gaussians}
    lifted:  {kind: gaussians, channels: 384, on: splats}
    seen:    {kind: point_sets, channels: 384, on: splats}
    field:   {kind: gaussians, channels: 16, on: splats}
  encode:
    cameras -> maps: {op: imagenet_dense, image_size: 160}
    splats -> field: {op: splat_field}
  lift:
    cameras, cloud -> splats: {op: fit_splats, steps: 0, strategy: none, opacity: 0.9}
    maps, splats -> lifted: {op: splats, max_side_px: 64, hold_out: 3}
    maps, splats -> seen: {op: splat_sets, max_side_px: 64, hold_out: 3}
  distill:
    seen -> field: {op: set_cosine, project: mlp, decode: sets}
data: {scene: SCENE}
optimiser: {steps: 30, crops: 1, crop_points: 100000, loss_rows: 100000, loss_sets: 64}
"""


def graph_of(text: str = FIELD, **changes: str) -> Graph:
    for old, new in changes.items():
        text = text.replace({"lifted": "64, hold_out: 3}", "seen": "hold_out: 3}"}[old], new, 1)
    return Graph.from_yaml(_graph_part(text))


def _graph_part(text: str) -> str:
    lines = text.partition("graph:\n")[2].partition("data:")[0].splitlines()
    return "\n".join(line[2:] for line in lines) + "\n"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "room"
    objects = ("soccer ball", "coffee mug", "banana")
    options = WorldOptions(seed=3, objects=objects, num_views=4, hw=(72, 96), spacing_m=0.03)
    made = make_world(folder, options)
    boxes = {"soccer ball": [[10.0, 10.0, 60.0, 50.0]], "banana": [[5.0, 5.0, 30.0, 30.0]]}
    frames = dict.fromkeys(open_scene(made).images.names[:2], boxes)
    (made / "localisation.json").write_text(json.dumps({"frames": frames}))
    return made


@pytest.fixture(scope="module")
def trained(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("field")
    runfile = folder / "field.yaml"
    runfile.write_text(FIELD.replace("SCENE", str(world)))
    return train_run(TrainRequest(runfile=runfile, out=folder / "run"), silent).run


def table(file: Path) -> list[dict[str, str]]:
    with file.open() as opened:
        return list(csv.DictReader(opened))


# ---- a whole run ---------------------------------------------------------------------------------


def test_frames_that_were_not_lifted_are_judged(trained: Run, tmp_path: Path) -> None:
    told = eval_run(EvalRequest(run=trained.path, out=tmp_path, task="features"))
    assert "held out" in told
    totals = {row["source"]: row for row in table(tmp_path / "features.csv")}
    assert list(totals) == ["lifted", "field.seen"]
    names = open_run(trained.path).scene.images.names
    tested = [names[index] for index in left_out(names, 3)]
    each = [r["frame"] for r in table(tmp_path / "features_each.csv") if r["source"] == "lifted"]
    assert each == tested
    assert [int(row["number"]) for row in totals.values()] == [len(tested)] * 2
    assert all(0.1 < float(row["cosine"]) < 0.9 for row in totals.values())
    assert totals["lifted"]["KL"] == "-"
    assert 0 < float(totals["lifted"]["judged"]) <= 1


def test_frames_that_were_lifted_are_closer(trained: Run, tmp_path: Path) -> None:
    eval_run(EvalRequest(run=trained.path, out=tmp_path / "unseen", task="features"))
    eval_run(EvalRequest(run=trained.path, out=tmp_path / "all", task="features", every=2))
    unseen, both = (table(tmp_path / name / "features.csv")[0] for name in ("unseen", "all"))
    assert (unseen["frames"], both["frames"]) == ("held out", "shown")
    assert float(both["cosine"]) > float(unseen["cosine"])


def test_localisation_has_both_protocols(trained: Run) -> None:
    opened = open_run(trained.path)
    tables = localisation_tables([(opened, opened.scene)])
    arms = [row[0] for row in tables["localisation"].rows]
    assert arms == [
        "single view", "lifted", "field.seen", "lifted, rendered", "field.seen, rendered",
    ]  # fmt: skip


def test_a_run_over_points_draws_no_features(world: Path, tmp_path: Path) -> None:
    run = lift_run(LiftRequest(source=world, out=tmp_path / "points"), silent).run
    with pytest.raises(DataError, match="a run over points"):
        eval_run(EvalRequest(run=run.path, out=tmp_path, task="features"))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"every": 8}, "--task features"),
        ({"every": 8, "task": "views"}, "--task views"),
        ({"every": 1, "task": "features"}, "2 or more"),
    ],
)
def test_every_is_checked(tmp_path: Path, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        eval_run(EvalRequest(run=tmp_path, out=tmp_path, **settings))


# ---- which frames are judged ---------------------------------------------------------------------

NAMES = ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize("source", ["lifted", "field.seen"])
def test_frames_held_out_by_the_own_lift(source: str) -> None:
    judged = judged_frames(graph_of(), source, NAMES)
    assert judged is not None
    assert (judged.frames, judged.held_out) == ((0, 3), True)
    assert (judged.teacher, judged.max_side_px, judged.level) == ("maps", 64, "all")


def test_without_such_frames_all_are_judged() -> None:
    judged = judged_frames(graph_of(lifted="64}"), "lifted", NAMES)
    assert judged is not None
    assert (judged.frames, judged.held_out) == ((0, 1, 2, 3, 4), False)


def test_a_frame_that_taught_a_field_in_another_way_was_not_held_out() -> None:
    text = FIELD.replace(
        "  distill:\n", "  distill:\n    lifted -> field: {op: cosine, project: mlp}\n"
    )
    judged = judged_frames(graph_of(text), "field.seen", NAMES)
    assert judged is not None
    assert judged.held_out
    judged = judged_frames(graph_of(text, lifted="64}"), "field.seen", NAMES)
    assert judged is not None
    assert not judged.held_out


def test_chosen_frames_may_be_held_out_or_not() -> None:
    few = judged_frames(graph_of(), "lifted", NAMES, every=6)
    more = judged_frames(graph_of(), "lifted", NAMES, every=2)
    assert few is not None
    assert more is not None
    assert (few.frames, few.held_out) == ((0,), True)
    assert (more.frames, more.held_out) == ((0, 2, 4), False)


@pytest.mark.parametrize(
    ("source", "level"),
    [("lifted", "all"), ("small.parts", "smallest"), ("large.groups", "largest")],
)
def test_a_source_is_judged_by_the_masks_that_it_learnt_from(source: str, level: str) -> None:
    file = Path(__file__).parents[2] / "configs/graphs/langsplat.yaml"
    judged = judged_frames(Graph.from_yaml(file.read_text()), source, NAMES)
    assert judged is not None
    assert (judged.level, judged.held_out) == (level, False)


def test_masks_of_a_level_are_drawn() -> None:
    # The left half is a mask by itself and, with the right half, a part of a larger one.
    left = pixel_centres(CAMERA.hw)[:, 0] < CAMERA.hw[1] / 2
    pixels = torch.arange(len(left))
    said = Masks(
        rows=torch.eye(2),
        valid=torch.ones(2, dtype=torch.bool),
        weight=torch.ones(2),
        membership=LiftOperator.from_coo(
            torch.cat((pixels[left], pixels)),
            torch.cat((pixels[left] * 0, pixels * 0 + 1)),
            torch.ones(int(left.sum()) + len(left)),
            shape=(len(left), 2),
        ),
        grid_hw=CAMERA.hw,
        camera=CAMERA,
        name="a",
    )
    smallest, largest = (drawn_view(two(), said, 40, level) for level in ("smallest", "largest"))
    assert [v.taps.to_dense().sum(0).tolist() for v in (smallest, largest) if v.taps] == [
        [400.0, 400.0], [0.0, 800.0],
    ]  # fmt: skip


def test_a_field_that_speaks_no_language_is_not_judged() -> None:
    assert judged_frames(graph_of(), "field", NAMES) is None


# ---- views left out of a lift --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["splats", "splat_sets", "splat_pixels"])
def test_hold_out_is_checked(name: str) -> None:
    with pytest.raises(ValueError, match="hold_out must be 2 or more"):
        op_class("lift", name)(hold_out=1)  # pyright: ignore[reportCallIssue]


def frame(name: str, x: float = 0.0) -> FeatureMap:
    return FeatureMap(
        rows=torch.full((2, 1), x),
        valid=torch.ones(2, dtype=torch.bool),
        weight=torch.ones(2),
        grid_hw=(1, 2),
        camera=CAMERA,
        name=name,
    )


CAMERA = Camera(
    K=torch.tensor([[40.0, 0, 20], [0, 40.0, 10], [0, 0, 1]]), T_world_cam=torch.eye(4), hw=(20, 40)
)


def test_every_third_view_by_name_is_left_out() -> None:
    maps = [frame(name) for name in ("d", "b", "a", "c")]
    left = left_in(maps, 3)
    assert [view.name for view in left] == ["b", "c"]
    assert isinstance(left, ChosenViews)
    assert [view.name for view in left[1:]] == ["c"]
    assert left_in(maps, None) is maps
    assert left_out(["d", "b", "a", "c"], 3) == [0, 2]


def test_names_that_views_know_are_not_read_from_them() -> None:
    class Closed(list[Image]):
        names = ("x", "y")

        def __iter__(self) -> Any:
            raise AssertionError("a view was read")

    class Cached(Closed):
        images = Closed()
        names = None  # pyright: ignore[reportAssignmentType]

    assert view_names(Closed()) == ["x", "y"]
    assert view_names(Cached()) == ["x", "y"]


def test_a_single_view_cannot_be_held_out() -> None:
    with pytest.raises(DataError, match="two frames or more"):
        left_in([frame("a")], 8)


def test_a_view_that_is_left_out_changes_nothing() -> None:
    splats = two()
    lift: Callable[..., Any] = op_class("lift", "splats")(hold_out=2)  # pyright: ignore[reportCallIssue]
    from xmodal.splats.values import as_gaussians

    lifted = lift([frame("a", 1e9), frame("b", 2.0)], as_gaussians(splats))
    assert lifted.rows[:, 0].tolist() == pytest.approx([2.0, 2.0])
    sets = op_class("lift", "splat_sets")(hold_out=2)  # pyright: ignore[reportCallIssue]
    found: Any = sets([frame("a", 1e9), frame("b", 2.0)], as_gaussians(splats))
    assert found.rows[:, 0].tolist() == [2.0, 2.0]


# ---- by hand -------------------------------------------------------------------------------------


def two(size_m: float = 0.1) -> Splats:
    """One large flat splat on the left, one on the right."""
    return Splats(
        means=torch.tensor([[-0.25, 0.0, 1.0], [0.25, 0.0, 1.0]]),
        quats=torch.tensor([[1.0, 0, 0, 0]] * 2),
        scales=torch.tensor([[size_m, size_m, 0.01]] * 2),
        opacities=torch.full((2,), 0.95),
    )


def store(folder: Path, rows: list[list[float]], space: str = "unit", **changed: Any) -> Features:
    size = len(rows)
    arrays: dict[str, Any] = {
        "rows": np.array(rows, np.float32),
        "valid": np.ones(size, np.bool_),
        "weight": np.ones(size, np.float32),
        "num_views": np.ones(size, np.int32),
        "disagreement": np.zeros(size, np.float32),
    } | changed
    info = FeatureInfo(
        teacher="hand", space=space, channels=len(rows[0]), num_points=size,
        num_valid=int(arrays["valid"].sum()), fingerprint="f", cosine_error=0.0,
    )  # fmt: skip
    Run(folder).write_features("lifted", info, **arrays)
    return Run(folder).features("lifted")


def operator(dense: list[list[float]]) -> LiftOperator:
    weights = torch.tensor(dense)
    row, col = weights.nonzero(as_tuple=True)
    return LiftOperator.from_coo(row, col, weights[row, col], shape=(len(dense), len(dense[0])))


def test_what_a_patch_shows_by_hand(tmp_path: Path) -> None:
    # Two pixels are two patches: the first shows both splats 3 to 1, the second only the last.
    weights = operator([[0.6, 0.2], [0.0, 0.9]])
    view = SplatView(weights=weights, rows=torch.tensor([[0.5, 0.5], [0.25, 0.75]]))
    features = store(tmp_path, [[1.0, 0.0], [0.0, 1.0]], "simplex")
    score = frame_scores(view, {"lifted": features})["lifted"]
    # Shown: (3/4, 1/4) and (0, 1).
    cosines = [2**-0.5 / (10**0.5 / 4) * 0.75 + 2**-0.5 / (10**0.5 / 4) * 0.25, 0.75 / 0.625**0.5]
    assert score.cosine == pytest.approx(np.mean(cosines), abs=1e-5)
    first = 0.5 * np.log(0.5 / 0.75) + 0.5 * np.log(0.5 / 0.25)
    second = 0.25 * np.log(0.25 / 1e-30) + 0.75 * np.log(0.75)
    assert score.kl == pytest.approx((first + second) / 2, rel=1e-4)
    assert score.share == 1.0


def test_patches_that_some_source_did_not_observe_are_left_out_for_all(tmp_path: Path) -> None:
    weights = operator([[0.6, 0.2], [0.0, 0.9], [0.1, 0.0]])
    view = SplatView(weights=weights, rows=torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]))
    whole = store(tmp_path / "a", [[1.0, 0.0], [0.0, 1.0]])
    half = store(tmp_path / "b", [[2.0, 0.0], [0.0, 0.0]], valid=np.array([True, False]))
    found = frame_scores(view, {"whole": whole, "half": half})
    # The last patch is hardly covered; the second one shows a splat that was not observed.
    assert found["whole"].share == found["half"].share == pytest.approx(1 / 3)
    assert found["whole"].cosine == pytest.approx(3 / 10**0.5, abs=1e-5)
    assert found["half"].cosine == pytest.approx(1.0)
    assert np.isnan(found["half"].kl)


def test_a_frame_of_which_nothing_is_known(tmp_path: Path) -> None:
    view = SplatView(weights=operator([[0.9, 0.0]]), rows=torch.zeros(1, 2))
    score = frame_scores(view, {"lifted": store(tmp_path, [[1.0, 0.0], [0.0, 1.0]])})["lifted"]
    assert np.isnan(score.cosine)
    assert score.share == 0


@pytest.mark.parametrize("block_bytes", [1, 8 * 7, 1 << 20])
def test_blocks_change_no_number(tmp_path: Path, block_bytes: int) -> None:
    chance = np.random.default_rng(0)
    rows = chance.integers(0, 8, (9, 2)).astype(np.float32)
    dense = torch.from_numpy(chance.random((20, 9)) * (chance.random((20, 9)) < 0.4)).float()
    weights = operator(dense.tolist())
    targets = weights.row_sum().nonzero().squeeze(1)
    parts = list(
        composited(weights, store(tmp_path, rows.tolist()), targets, block_bytes=block_bytes)
    )
    wanted = (dense / dense.sum(1, keepdim=True)) @ torch.from_numpy(rows)
    assert torch.equal(torch.cat([part for part, _ in parts]), targets)
    torch.testing.assert_close(torch.cat([found for _, found in parts]), wanted[targets])
    assert (len(parts) == 1) == (block_bytes == 1 << 20)


def test_rows_are_drawn_before_they_are_asked(tmp_path: Path) -> None:
    features = store(tmp_path, [[1.0, 0.0], [0.0, 1.0]])
    renderer = SplatRenderer(two(0.25), stride=1)
    products = renderer.render_rows(features, lambda rows: rows[:, :1] * rows[:, 1:], CAMERA)
    share = renderer.render(np.array([1.0, 0.0], np.float32), CAMERA)
    assert products.shape == (20, 40, 1)
    np.testing.assert_allclose(products[..., 0], share * (1 - share), atol=1e-5)
    # Between the splats both show, although no splat has a score of its own.
    assert np.nanmax(products) > 0.1


def test_rows_of_splats_that_nobody_observed_show_nothing(tmp_path: Path) -> None:
    features = store(tmp_path, [[1.0, 0.0], [0.0, 0.0]], valid=np.array([True, False]))
    image = SplatRenderer(two(), stride=1).render_rows(features, lambda rows: rows, CAMERA)
    assert image[10, 10].tolist() == pytest.approx([1.0, 0.0])
    assert np.isnan(image[10, 30]).all()


def test_nothing_in_sight(tmp_path: Path) -> None:
    features = store(tmp_path, [[1.0, 0.0]] * 2, valid=np.zeros(2, np.bool_))
    image = SplatRenderer(two()).render_rows(features, lambda rows: rows[:, :1], CAMERA)
    assert image.shape == (10, 20, 1)
    assert np.isnan(image).all()


def test_the_example_is_a_run_file(tmp_path: Path) -> None:
    (tmp_path / "field.yaml").write_text(FIELD)
    assert load_run(tmp_path / "field.yaml").graph == graph_of()
