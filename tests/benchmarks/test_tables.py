"""Tables of results: jobs are kept, intervals are paired, pages are filled in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.tables import show
from benchmarks.tables.jobs import Job, run_jobs
from benchmarks.tables.kitchen import scene_folder
from benchmarks.tables.losses import arms
from benchmarks.tables.record import read_record, record, table, write_record
from benchmarks.tables.scenes import (
    DENSE_SHARED,
    LIFTS,
    MASKS_SHARED,
    LabelledScene,
    names_of,
    scene_names,
)
from benchmarks.tables.scoring import Measured, chosen, classes, miou, stacked
from benchmarks.tables.student import LABELS, Arm, build_net, weights_path
from xmodal.config.runfile import load_run
from xmodal.edges import op_class
from xmodal.errors import DataError
from xmodal.evaluate import OTHER
from xmodal.ply import write_points
from xmodal.values import Points

# ---- jobs --------------------------------------------------------------------------------------


def count_up(work, settings):
    """A job that leaves a trace of every call."""
    calls = work / "calls"
    calls.write_text(calls.read_text() + "x" if calls.exists() else "x")
    if settings.get("fail"):
        raise ValueError("on purpose")
    return {"double": 2 * settings["value"]}


def test_a_job_is_done_once_in_a_process_of_its_own(tmp_path):
    job = Job("group/one", count_up, {"value": 3})
    for _ in range(2):
        found = run_jobs([job], tmp_path, 1)["group/one"]
    assert found["double"] == 6
    assert found["settings"] == {"value": 3}
    assert found["peak_mb"] > 0
    assert (tmp_path / "calls").read_text() == "x"


def test_other_settings_are_another_job(tmp_path):
    first, second = (Job("same", count_up, {"value": v}) for v in (1, 2))
    assert first.path(tmp_path) != second.path(tmp_path)


def test_a_failed_job_is_named_and_the_others_are_kept(tmp_path):
    good, bad = Job("good", count_up, {"value": 1}), Job("bad", count_up, {"fail": True})
    with pytest.raises(RuntimeError, match="bad: ValueError: on purpose"):
        run_jobs([bad, good], tmp_path, 1)
    assert good.result(tmp_path)["double"] == 2


# ---- numbers -----------------------------------------------------------------------------------


def test_miou_leaves_out_objects_that_do_not_occur():
    confusion = np.array([[6, 0, 2], [0, 0, 0], [4, 1, 7]])
    found = miou(np.stack([confusion, np.zeros((3, 3), dtype=np.int64)]))
    assert found[0, 0] == pytest.approx(6 / 12)
    assert np.isnan(found[1, 0])


def test_scenes_of_a_split_are_stacked_in_order():
    tables = {"test-001": [[1]], "novel-000": [[9]], "test-000": [[2]]}
    assert stacked(tables, "test").tolist() == [[[2]], [[1]]]


def test_seeds_are_averaged_and_differences_are_paired():
    random = np.random.default_rng(0)
    scenes = random.integers(1, 50, (6, 3, 3))
    better = scenes + 30 * np.eye(3, dtype=np.int64)
    one, both = Measured([scenes]), Measured([scenes, better])
    assert both.mean == pytest.approx((one.mean + Measured([better]).mean) / 2)
    assert one.spread == 0 < both.spread
    # Against itself nothing is left, whatever scenes are drawn.
    assert one.minus(one) == "+0.000 (+0.000..+0.000)"
    low = float(Measured([better]).minus(one).split("(")[1].split("..")[0])
    assert low > 0


def test_the_surer_source_answers_and_the_student_where_nothing_was_lifted():
    lifted = np.array([[0.9, 0.1], [0.2, 0.3], [0.9, 0.0]], dtype=np.float32)
    student = np.array([[0.1, 0.8], [0.1, 0.6], [0.0, 0.4]], dtype=np.float32)
    best = chosen(lifted, student, np.array([True, True, False]))
    assert best.argmax(1).tolist() == [0, 1, 1]


def test_points_below_the_others_or_unobserved_are_other():
    scores = np.array([[0.9, 0.1, 0.2], [0.3, 0.2, 0.8], [0.9, 0.1, 0.2]], dtype=np.float32)
    assert classes(scores, 2, np.array([True, True, False])).tolist() == [0, OTHER, OTHER]


# ---- scenes and students -----------------------------------------------------------------------


def write_scene(work: Path, name: str, seed: int) -> None:
    """A scene as far as students from labels need it."""
    folder = work / "worlds" / name
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    xyz = torch.from_numpy(random.random((200, 3), dtype=np.float32))
    normals = torch.tensor([[0.0, 0.0, 1.0]]).expand(200, 3).contiguous()
    cloud = Points(xyz=xyz, offsets=torch.tensor([0, 200]), rgb=torch.rand(200, 3), normals=normals)
    write_points(folder / "points.ply", cloud)
    np.save(folder / "labels.npy", random.integers(0, 3, 200).astype(np.int32))
    (folder / "classes.json").write_text(json.dumps(["table", "banana", "bagel"]))


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    for index, name in enumerate(["train-000", *scene_names("dev")]):
        write_scene(folder, name, index)
    return folder


def test_a_student_learns_is_judged_and_is_started_from(work):
    tiny = Arm(
        target="truth", losses=(LABELS,), scenes=1, judged=("dev",), steps=2, crop_points=100,
        crops=1, loss_rows=50, voxel_m=0.1,
    )  # fmt: skip
    first = tiny.job("first")
    found = first.function(work, first.settings)
    assert sorted(found["student"]) == scene_names("dev")
    assert np.sum(found["student"]["dev-000"]) == 200
    assert weights_path(work, tiny.key()).is_file()
    probe = Arm(**{**first.settings, "start": tiny.key(), "trained": "last", "seed": 1})
    again = probe.job("probe")
    assert sorted(again.function(work, again.settings)["student"]) == scene_names("dev")


def test_a_share_of_labels_is_the_same_points_each_time(work):
    scene = LabelledScene(work, "train-000")
    names = names_of("test")
    first, second = (scene.truth(names, 0.1, 0).valid for _ in range(2))
    assert int(first.sum()) == 20
    assert torch.equal(first, second)
    assert not torch.equal(first, scene.truth(names, 0.1, 1).valid)


def test_labels_of_unnamed_classes_are_other(work):
    ids = LabelledScene(work, "train-000").ids(("bagel",))
    assert set(ids.tolist()) == {OTHER, 0}


@pytest.mark.parametrize("lift", LIFTS.values(), ids=LIFTS)
def test_every_lift_is_a_sound_run_file(lift, tmp_path):
    (tmp_path / "run.yaml").write_text(lift.runfile(Path("test-000")))
    spec = load_run(tmp_path / "run.yaml")
    assert spec.graph.space("lifted") == lift.space
    assert spec.graph.nodes["lifted"].channels == lift.channels


def test_lifts_lie_apart():
    assert DENSE_SHARED.name != MASKS_SHARED.name
    assert len({lift.name for lift in LIFTS.values()}) == len(LIFTS)


def test_every_loss_of_the_table_can_be_built():
    for name, arm in arms().items():
        for loss in arm.losses:
            op = op_class("distill", loss["op"])(**{k: v for k, v in loss.items() if k != "op"})
            build_net(op, 16)
            assert arm.judged == ("dev", "test"), name


def test_a_room_that_is_not_there_is_said(monkeypatch):
    monkeypatch.delenv("XMODAL_DATA", raising=False)
    with pytest.raises(DataError, match="XMODAL_DATA"):
        scene_folder()


# ---- records and pages -------------------------------------------------------------------------


def made(name="world"):
    shown = table("A title", ("arm", "mIoU"), [["lifted", 0.5], ["student", float("nan")]])
    return record(name, [shown], {"a": {"seconds": 90.0}}, seeds=(0, 1), sizes={"scenes": 10})


def test_a_record_comes_back_as_it_was(tmp_path):
    write_record(made(), tmp_path)
    assert read_record("world", tmp_path) == made()
    assert read_record("losses", tmp_path) is None


def test_a_damaged_record_is_said(tmp_path):
    (tmp_path / "world.json").write_text("{}")
    with pytest.raises(DataError, match="TABLE=world"):
        read_record("world", tmp_path)


def test_a_page_is_filled_between_its_markers_and_stays_so(tmp_path):
    page = "before\n<!-- table:world:begin -->\nold\n<!-- table:world:end -->\nafter\n"
    write_record(made(), tmp_path)
    filled = show.filled(page, tmp_path)
    assert "| lifted | 0.500 |" in filled
    assert "10 scenes, seeds 0, 1" in filled
    assert "old" not in filled
    assert filled.startswith("before\n")
    assert filled.endswith("after\n")
    assert show.filled(filled, tmp_path) == filled


def test_a_table_that_was_not_made_says_how_to(tmp_path):
    page = "<!-- table:losses:begin --><!-- table:losses:end -->"
    assert "make results TABLE=losses" in show.filled(page, tmp_path)


def test_a_marker_without_an_end_is_said(tmp_path):
    with pytest.raises(DataError, match="no end"):
        show.filled("<!-- table:world:begin -->", tmp_path)


def test_a_table_twice_on_a_page_is_said(tmp_path):
    page = "<!-- table:world:begin --><!-- table:world:end -->"
    with pytest.raises(DataError, match="2 times"):
        show.filled(page + page, tmp_path)
