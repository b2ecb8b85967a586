"""Scenes, crops and sets of points: which are drawn, and what of a teacher comes along."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from xmodal.errors import DataError
from xmodal.train.data import TrainScene, take_rows
from xmodal.train.loop import Distill
from xmodal.train.sampling import Sampler
from xmodal.train.sets import choose_sets, draw_sets, in_some_set, take_sets


def sampler(
    toy: ModuleType, scenes: list[dict[str, Any]], wide: bool = False, **change: Any
) -> Any:
    students = {"student": toy.student()}
    made = [TrainScene(i, scene, students, [toy.KL], {}) for i, scene in enumerate(scenes)]
    options = replace(toy.OPTIONS, **change)
    return Sampler(made, students, [toy.KL], {"student"} if wide else set(), options)


@pytest.mark.parametrize(
    ("mode", "share"),
    [("points", (400 * 0.9) / (400 * 0.9 + 100 * 0.9)), ("equal", 0.5), ("voxels", 0.75)],
)
def test_how_often_scenes_are_seen(
    toy: ModuleType, mode: Literal["points", "voxels", "equal"], share: float
) -> None:
    scenes = [toy.room(400), toy.room(100, seed=1)]
    drawn = sampler(toy, scenes, balance_scenes=mode)
    rng = np.random.default_rng(0)
    first = np.mean([drawn.draw(rng).scene.index == 0 for _ in range(400)])
    assert first == pytest.approx(share, abs=0.08)


def test_one_crop_where_it_covers_the_scene(toy: ModuleType) -> None:
    piece = sampler(toy, [toy.room(60)]).draw(np.random.default_rng(0)).pieces["student"]
    assert piece.offsets.tolist() == [0, 60]
    assert piece.rows.tolist() == list(range(60))


def test_compared_points_were_observed(toy: ModuleType) -> None:
    room = toy.room()
    batch = sampler(toy, [room]).draw(np.random.default_rng(0))
    piece = batch.pieces["student"]
    assert piece.offsets.tolist() == [0, 75, 150]
    assert len(piece.chosen) == 60
    assert room["lifted"].valid[piece.compared].all()


def test_a_wider_piece_compares_the_same_points(toy: ModuleType) -> None:
    drawn = sampler(toy, [toy.room()], wide=True)
    for seed in range(5):
        batch = drawn.draw(np.random.default_rng(seed))
        piece, wide = batch.pieces["student"], batch.wide["student"]
        assert wide.offsets.tolist() == [0, 150, 300]
        assert torch.equal(wide.compared, piece.compared)
        for crop in range(2):
            inside = piece.rows[piece.offsets[crop] : piece.offsets[crop + 1]]
            around = wide.rows[wide.offsets[crop] : wide.offsets[crop + 1]]
            assert torch.isin(inside, around).all()


def test_no_scene_with_a_point_that_counts_is_refused(toy: ModuleType) -> None:
    room = toy.room()
    unseen = {**room, "lifted": replace(room["lifted"], weight=torch.zeros(400))}
    with pytest.raises(DataError, match="none that a teacher saw"):
        sampler(toy, [unseen, unseen])


def test_all_that_a_teacher_says_of_a_point_comes_along(toy: ModuleType) -> None:
    lifted = toy.room()["lifted"]
    full = replace(
        lifted,
        num_views=torch.arange(400),
        disagreement=torch.arange(400) / 400,
        segments=torch.arange(400) % 7,
    )
    rows = torch.tensor([5, 2, 5])
    taken = take_rows(full, rows, "cpu")
    for name in ("xyz", "rows", "valid", "weight", "num_views", "disagreement", "segments"):
        assert torch.equal(getattr(taken, name), getattr(full, name)[rows])


# ---- sets of points ------------------------------------------------------------------------------


def test_sets_among_chosen_points_by_hand(toy: ModuleType) -> None:
    room = toy.room()
    sets = toy.quarters(room)
    of_point = sets.membership.transpose()
    members = [
        sets.membership.col[sets.membership.crow[i] : sets.membership.crow[i + 1]] for i in range(4)
    ]
    # Three points of set 2, one of them twice; two points of set 0, which are too few.
    points = torch.cat([members[2][:2], members[0][:2], members[2][:1]])
    taken = take_sets(sets, of_point, points, "cpu", min_points=3)
    assert torch.equal(taken.rows, sets.rows[[2]])
    assert taken.membership.to_dense().tolist() == [[1.0, 1.0, 0.0, 0.0, 1.0]]
    few = take_sets(sets, of_point, points, "cpu", min_points=2)
    assert torch.equal(few.rows, sets.rows[[0, 2]])


def test_sets_that_do_not_count_are_left_out(toy: ModuleType) -> None:
    sets = toy.quarters(toy.room())
    weight = torch.tensor([1.0, 0.0, 1.0, 1.0])
    valid = torch.tensor([True, True, False, True])
    spoilt = replace(sets, weight=weight, valid=valid)
    everything = torch.arange(400)
    taken = take_sets(spoilt, sets.membership.transpose(), everything, "cpu", min_points=1)
    assert torch.equal(taken.rows, sets.rows[[0, 3]])
    member = in_some_set(spoilt)
    assert member.sum() == taken.membership.nnz


def test_masks_and_views_come_along(toy: ModuleType) -> None:
    sets = toy.quarters(toy.room())
    marked = replace(sets, groups=torch.tensor([5, 5, -1, 7]), views=torch.tensor([0, 0, 0, 1]))
    chosen = choose_sets(marked, torch.tensor([1, 3]))
    taken = take_sets(chosen, chosen.membership.transpose(), torch.arange(400), "cpu", min_points=1)
    for some in (chosen, taken):
        assert some.groups is not None
        assert some.views is not None
        assert some.groups.tolist() == [5, 7]
        assert some.views.tolist() == [0, 1]
    assert choose_sets(sets, torch.tensor([1])).groups is None


def test_sets_of_a_view_are_drawn_together(toy: ModuleType) -> None:
    sets = toy.quarters(toy.room())
    paired = replace(sets, views=torch.tensor([1, 0, 1, 0]))
    drawn = {tuple(draw_sets(paired, 2, np.random.default_rng(i)).tolist()) for i in range(20)}
    assert drawn == {(0, 2), (1, 3)}
    alone = {tuple(draw_sets(sets, 2, np.random.default_rng(i)).tolist()) for i in range(40)}
    assert len(alone) == 6
    assert draw_sets(paired, 9, np.random.default_rng(0)).tolist() == [0, 1, 2, 3]


@dataclass(frozen=True)
class SetMean:
    """Compares the mean row of a set's points with the row of the set."""

    seen: list[int]
    weight: float = 1.0

    def __call__(self, teacher: Any, student: Any, *, net: Any = None) -> Tensor:
        self.seen.append(len(teacher.rows))
        assert teacher.membership.num_sources == len(student.rows)
        return (teacher.membership.mean().apply(student.rows) - teacher.rows).square().mean()


def test_a_student_learns_from_sets_of_points(toy: ModuleType, tmp_path: Path) -> None:
    room = toy.room()
    scene = {"cloud": room["cloud"], "sets": toy.quarters(room)}
    op = SetMean([])
    options = replace(toy.OPTIONS, steps=30, lr=1e-2)
    edge = Distill(op, "sets", "student")
    _, history = toy.train(tmp_path, scenes=[scene], edges=[edge], options=options)
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert set(op.seen) <= {1, 2, 3, 4}


def test_a_crop_without_a_whole_set_has_no_loss(toy: ModuleType, tmp_path: Path) -> None:
    room = toy.room()
    scene = {"cloud": room["cloud"], "sets": toy.quarters(room)}
    options = replace(toy.OPTIONS, min_set_points=1000)
    edge = Distill(SetMean([]), "sets", "student")
    _, history = toy.train(tmp_path, scenes=[scene], edges=[edge], options=options)
    assert [record["loss"] for record in history] == [0.0] * 6


def test_sets_of_another_cloud_are_refused(toy: ModuleType, tmp_path: Path) -> None:
    scene = {"cloud": toy.room()["cloud"], "sets": toy.quarters(toy.room(300))}
    edge = Distill(SetMean([]), "sets", "student")
    with pytest.raises(DataError, match="cloud of 300"):
        toy.train(tmp_path, scenes=[scene], edges=[edge])


def test_a_student_does_not_stand_on_sets(toy: ModuleType, tmp_path: Path) -> None:
    room = toy.room()
    scene = {**room, "cloud": toy.quarters(room)}
    with pytest.raises(DataError, match="points at cloud"):
        toy.train(tmp_path, scenes=[scene])
