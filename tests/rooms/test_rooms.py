"""Rooms: what is seen and heard follows from the geometry by hand, and is the same every time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from xmodal.errors import UsageError
from xmodal.rooms import RoomSet, make_rooms
from xmodal.rooms.echoes import (
    ARRAY_RADIUS_M,
    SPEED_MPS,
    excitation,
    heard,
    impulse_responses,
    microphones,
)
from xmodal.rooms.layout import (
    CLASSES,
    LISTENER_HEIGHT_M,
    Box,
    Listener,
    Reals,
    Room,
    draw_listener,
    draw_room,
    solid,
    turn,
)
from xmodal.rooms.options import SOUNDS, Sound
from xmodal.rooms.sight import cast, directions, floor_plan, painted, panorama, volume

EMPTY = Room(size_m=(5.0, 4.0, 2.7), boxes=(), walls=(0.1, 0.1, 0.1, 0.1, 0.1, 0.1))
# Not on a diagonal of the room, where two echoes of an edge fall together.
HERE = Listener(xyz=(2.03, 1.61, 1.2), heading_rad=0.0, source=(2.03, 1.61, 1.2))
CUPBOARD = Box(class_name="furniture", low=(3.5, 1.0, 0.0), high=(4.0, 2.4, 2.0), absorption=0.1)
SMALL = RoomSet(num=2, test=1, places=2, duration_s=0.1, late_order=6)


def drawn(seed: int) -> Room:
    return draw_room(np.random.default_rng(seed), 2, 6)


# ---- what is seen ------------------------------------------------------------------------------


def test_rays_along_the_axes_meet_the_walls_at_distances_by_hand() -> None:
    rays = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1.0]])
    far, kind, axis = cast(EMPTY, np.array(HERE.xyz), rays)
    np.testing.assert_allclose(far, [2.97, 2.03, 2.39, 1.61, 1.5, 1.2])
    names = [CLASSES[k] for k in kind]
    assert names == ["wall", "wall", "wall", "wall", "ceiling", "floor"]
    assert axis.tolist() == [0, 0, 1, 1, 2, 2]


def test_a_slanted_ray_meets_the_floor_at_a_distance_by_hand() -> None:
    # 45 degrees down: 1.2 m below and 1.2 m ahead, before any wall.
    ray = np.array([[np.sqrt(0.5), 0.0, -np.sqrt(0.5)]])
    far, kind, _ = cast(EMPTY, np.array(HERE.xyz), ray)
    np.testing.assert_allclose(far, 1.2 * np.sqrt(2))
    assert CLASSES[kind[0]] == "floor"


def test_a_cupboard_hides_the_wall_behind_it_and_nothing_beside_it() -> None:
    room = replace(EMPTY, boxes=(CUPBOARD,))
    rays = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    far, kind, _ = cast(room, np.array(HERE.xyz), rays)
    np.testing.assert_allclose(far, [3.5 - 2.03, 4.0 - 1.61])
    assert [CLASSES[k] for k in kind] == ["furniture", "wall"]


def test_a_ray_passes_below_a_table_top() -> None:
    table = Box(class_name="furniture", low=(3.0, 1.0, 0.7), high=(3.5, 2.0, 0.75), absorption=0.1)
    room = replace(EMPTY, boxes=(table,))
    start = np.array([2.0, 1.5, 0.4])
    far, kind, _ = cast(room, start, np.array([[1.0, 0.0, 0.0], [np.sqrt(0.9), 0, np.sqrt(0.1)]]))
    assert [CLASSES[k] for k in kind] == ["wall", "furniture"]
    np.testing.assert_allclose(far[1], 1.0 / np.sqrt(0.9))  # its front edge


def test_rays_of_a_panorama_are_unit_and_ahead_is_in_the_middle() -> None:
    rays = directions((4, 8)).reshape(4, 8, 3)
    np.testing.assert_allclose(np.linalg.norm(rays, axis=2), 1)
    assert (rays[:2, :, 2] > 0).all()
    assert (rays[2:, :, 2] < 0).all()
    assert rays[1, 3, 0] > 0.8  # ahead, just left of the middle
    assert rays[1, 3, 1] > 0
    assert rays[1, 1, 1] > 0.8  # left
    assert rays[1, 5, 1] < -0.8  # right


def test_turning_the_head_turns_the_panorama() -> None:
    room = replace(EMPTY, boxes=(CUPBOARD,))
    straight, kinds = panorama(room, HERE, (8, 16))
    turned, other = panorama(room, replace(HERE, heading_rad=np.pi / 2), (8, 16))
    np.testing.assert_allclose(turned, np.roll(straight, 4, axis=1), atol=1e-9)
    np.testing.assert_array_equal(other, np.roll(kinds, 4, axis=1))


@pytest.mark.parametrize("seed", range(6))
def test_the_floor_plan_agrees_with_the_panorama(seed: int) -> None:
    room = drawn(seed)
    listener = draw_listener(room, np.random.default_rng(seed), beside=False)
    rays = directions((24, 48)) @ turn(listener.heading_rad).T
    far, kind, _ = cast(room, np.array(listener.xyz), rays)
    met = np.array(listener.xyz) + far[:, None] * rays
    beyond = met + 1e-6 * rays
    walls = kind == CLASSES.index("wall")
    pieces = ~np.isin(kind, [CLASSES.index(n) for n in ("wall", "floor", "ceiling")])
    assert solid(room, beyond[walls][:, :2]).all()
    assert solid(room, beyond[pieces][:, :2]).all()
    # What is seen of the floor is free, but for what lies below table tops.
    low = [box for box in room.boxes if box.low[2] == 0]
    floor = met[kind == CLASSES.index("floor")][:, :2]
    assert not solid(replace(room, boxes=tuple(low)), floor * (1 - 1e-9)).any()


def test_a_floor_plan_by_hand() -> None:
    room = replace(EMPTY, boxes=(CUPBOARD,))
    plan = floor_plan(room, replace(HERE, xyz=(2.0, 1.5, 1.2)), 4, 1.0)
    # Rows go from 1.5 m ahead to 1.5 m behind, columns from 1.5 m left to 1.5 m right.
    assert plan.tolist() == [
        [False, True, True, False],  # x 3.5: the cupboard at y 2.0 and 1.0
        [False, False, False, False],
        [False, False, False, False],
        [False, False, False, False],
    ]
    behind = floor_plan(room, replace(HERE, xyz=(2.0, 1.5, 1.2), heading_rad=np.pi), 4, 1.0)
    np.testing.assert_array_equal(behind, plan[::-1, ::-1])


def test_voxels_by_hand() -> None:
    table = Box(class_name="furniture", low=(2.1, 0.2, 0.7), high=(2.9, 0.6, 0.76), absorption=0.1)
    room = replace(EMPTY, boxes=(CUPBOARD, table))
    found = volume(room, replace(HERE, xyz=(2.0, 1.5, 1.2)), 4, 3, 1.0)
    assert found.shape == (3, 4, 4)
    # From 2 m ahead to 2 m behind, from 2 m left to 2 m right; x ends at 5.0, y begins at 0.0.
    low = [
        [False, True, True, False],  # x 3 to 4: the cupboard at y 1.5 to 2.5 and 0.5 to 1.5
        [False, False, True, True],  # x 2 to 3: the table top, y 0.2 to 0.6
        [False, False, False, False],
        [False, False, False, False],
    ]
    assert found[0].tolist() == low
    # The cupboard ends at 2.0 m and only touches the highest slice, whose middle is in the room.
    assert found[1].tolist() == [low[0], *([[False] * 4] * 3)]
    assert not found[2].any()
    high = volume(room, replace(HERE, xyz=(2.0, 1.5, 1.2)), 4, 4, 1.0)
    assert high[3].all()  # above the ceiling


@pytest.mark.parametrize("seed", range(6))
def test_voxels_agree_with_the_panorama_and_turn_with_the_head(seed: int) -> None:
    room = drawn(seed)
    listener = draw_listener(room, np.random.default_rng(seed), beside=False)
    cells, side = 40, 0.25
    found = volume(room, listener, cells, 16, side)
    rays = directions((24, 48))
    far, kind, _ = cast(room, np.array(listener.xyz), rays @ turn(listener.heading_rad).T)
    pieces = ~np.isin(kind, [CLASSES.index(n) for n in ("wall", "floor", "ceiling")])
    # Just behind the surface that a ray meets, in the listener's axes.
    met = rays[pieces] * (far[pieces, None] + 1e-6)
    row = np.floor(cells / 2 - met[:, 0] / side).astype(int)
    column = np.floor(cells / 2 - met[:, 1] / side).astype(int)
    level = np.floor((met[:, 2] + listener.xyz[2]) / side).astype(int)
    inside = (row >= 0) & (row < cells) & (column >= 0) & (column < cells) & (level < 16)
    assert found[level[inside], row[inside], column[inside]].all()
    turned = volume(
        room, replace(listener, heading_rad=listener.heading_rad + np.pi / 2), cells, 16, side
    )
    np.testing.assert_array_equal(turned, np.rot90(found, -1, axes=(1, 2)))


def test_paint_is_darker_where_it_is_farther() -> None:
    room = replace(EMPTY, size_m=(9.0, 4.0, 2.7))
    picture = painted(room, HERE, (16, 32)).astype(int)
    assert picture.shape == (16, 32, 3)
    assert picture[8, 0].sum() > picture[8, 16].sum()  # 2 m behind, 7 m ahead


# ---- rooms that are drawn ----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_furniture_stands_in_the_room_and_apart(seed: int) -> None:
    room = drawn(seed)
    for index, box in enumerate(room.boxes):
        assert all(0 <= a < b <= s for a, b, s in zip(box.low, box.high, room.size_m, strict=True))
        for other in room.boxes[:index]:
            apart = [box.low[k] >= other.high[k] or other.low[k] >= box.high[k] for k in (0, 1)]
            assert any(apart)
    listener = draw_listener(room, np.random.default_rng(seed), beside=True)
    assert listener.xyz[2] == LISTENER_HEIGHT_M
    assert not solid(room, np.array([listener.xyz[:2], listener.source[:2]])).any()


def test_a_source_beside_is_elsewhere_and_an_echo_is_ones_own() -> None:
    random = np.random.default_rng(0)
    own = draw_listener(EMPTY, random, beside=False)
    assert own.source == own.xyz
    other = draw_listener(EMPTY, random, beside=True)
    assert np.hypot(*np.subtract(other.source, other.xyz)[:2]) >= 1


# ---- what is heard -----------------------------------------------------------------------------


def responses(room: Room, listener: Listener, early: int = 1, late: int = 1) -> Reals:
    return impulse_responses(room, listener, rate_hz=16000, early_order=early, late_order=late)


def test_direct_sound_arrives_after_distance_over_speed_within_a_sample() -> None:
    listener = replace(HERE, source=(3.9, 3.1, 1.9))
    found = responses(EMPTY, listener, early=0, late=0)
    far = np.linalg.norm(microphones(listener) - np.array(listener.source), axis=1)
    expected = far / SPEED_MPS * 16000
    assert np.abs(np.abs(found).argmax(axis=1) - expected).max() <= 1
    # Pressure falls with distance; a peak between two samples is up to a third lower.
    peaks = np.abs(found).max(axis=1) * far
    assert ((peaks > 0.6) & (peaks < 1.05)).all()


def test_microphones_are_on_a_sphere_that_turns_with_the_head() -> None:
    around = microphones(HERE) - np.array(HERE.xyz)
    np.testing.assert_allclose(np.linalg.norm(around, axis=1), ARRAY_RADIUS_M)
    turned = microphones(replace(HERE, heading_rad=np.pi / 2)) - np.array(HERE.xyz)
    np.testing.assert_allclose(turned, around[:, [1, 0, 2]] * [-1, 1, 1], atol=1e-9)


def test_the_echo_of_the_nearest_wall_comes_when_the_image_says() -> None:
    # Only the wall at low y reflects; its image stands at y = -1.61.
    room = replace(EMPTY, walls=(0.999, 0.999, 0.0, 0.999, 0.999, 0.999))
    found = responses(room, HERE)
    image = np.array([2.03, -1.61, 1.2])
    expected = np.linalg.norm(microphones(HERE) - image, axis=1) / SPEED_MPS * 16000
    after = np.abs(found[:, 60:]).argmax(axis=1) + 60
    assert np.abs(after - expected).max() <= 1


def test_our_surfaces_are_the_same_room_as_a_shoebox() -> None:
    # Late reflections alone are a shoebox's: where early ones of the same order agree with them,
    # replacing those changes nothing.
    walls = responses(EMPTY, HERE, early=2, late=2)
    whole = responses(EMPTY, HERE, early=1, late=2)
    num = min(walls.shape[1], whole.shape[1])
    assert np.abs(walls[:, :num] - whole[:, :num]).max() < 1e-3


def test_a_cupboard_in_between_takes_the_direct_sound_away() -> None:
    listener = replace(HERE, source=(4.6, 1.7, 1.2))
    straight = responses(EMPTY, listener)
    behind = responses(replace(EMPTY, boxes=(CUPBOARD,)), listener)
    at = int(np.abs(straight[0]).argmax())
    assert np.abs(behind[0, at - 2 : at + 3]).max() < 0.1 * np.abs(straight[0]).max()


def test_a_source_that_nothing_is_heard_of_is_told() -> None:
    listener = replace(HERE, source=(4.6, 1.7, 1.2))
    with pytest.raises(UsageError, match="higher early_order"):
        responses(replace(EMPTY, boxes=(CUPBOARD,)), listener, early=0, late=0)


def test_a_cupboard_answers_before_the_wall_behind_it() -> None:
    dull = replace(EMPTY, walls=(0.999,) * 6)
    front = 2 * (CUPBOARD.low[0] - HERE.xyz[0]) / SPEED_MPS * 16000
    window = slice(round(front) - 12, round(front) + 12)
    with_it = responses(replace(dull, boxes=(CUPBOARD,)), HERE)
    without = responses(dull, HERE)
    assert np.abs(with_it[:, window]).max() > 5 * np.abs(without[:, window]).max()


@pytest.mark.parametrize("seed", [0, 1])
def test_energy_decays(seed: int) -> None:
    room = drawn(seed)
    listener = draw_listener(room, np.random.default_rng(seed), beside=False)
    found = responses(room, listener, early=2, late=20)
    quarters = [float((found[:, i * 800 : (i + 1) * 800] ** 2).sum()) for i in range(4)]
    assert quarters == sorted(quarters, reverse=True)
    assert quarters[3] < 0.02 * quarters[0]


def test_walls_that_absorb_more_leave_less() -> None:
    hard, soft = (
        responses(replace(EMPTY, walls=(a,) * 6), HERE, early=1, late=12) for a in (0.05, 0.5)
    )
    assert (soft[:, 400:] ** 2).sum() < 0.2 * (hard[:, 400:] ** 2).sum()


@pytest.mark.parametrize("kind", SOUNDS)
def test_sounds_peak_at_one(kind: Sound) -> None:
    sound = excitation(kind, 16000, np.random.default_rng(0))
    assert np.abs(sound).max() == pytest.approx(1)
    assert np.isfinite(sound).all()


def test_a_recording_is_as_long_as_asked_and_within_scale() -> None:
    found = heard(np.ones((4, 10)) * 50, np.ones(3), 20)
    assert found.shape == (20, 4)
    assert np.abs(found).max() <= 1
    assert not found[12:].any()


# ---- the data set ------------------------------------------------------------------------------


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_rooms(tmp_path: Path) -> None:
    one, two = (make_rooms(tmp_path / name, SMALL) for name in ("one", "two"))
    found = files_of(one)
    assert found == files_of(two)
    assert len(found) == 3 * 2 * 6 + 1
    other = make_rooms(tmp_path / "other", replace(SMALL, num=1, test=0, seed=1))
    path = "audio/train-0000/0.wav"
    assert (other / path).read_bytes() != found[path]


def test_a_larger_set_begins_with_the_same_rooms(tmp_path: Path) -> None:
    small = make_rooms(tmp_path / "small", replace(SMALL, num=1, test=0))
    large = make_rooms(tmp_path / "large", replace(SMALL, num=2, test=0))
    for name, data in files_of(small).items():
        if name != "rooms.json":
            assert (large / name).read_bytes() == data


def test_rooms_that_nobody_measured_are_heard_and_seen_alike(tmp_path: Path) -> None:
    few = files_of(make_rooms(tmp_path / "few", replace(SMALL, mapped=1)))
    all_ = files_of(make_rooms(tmp_path / "all", SMALL))
    gone = {name for name in all_ if name not in few}
    assert {name.split("/")[-2] for name in gone} == {"depth", "semantic_cat", "train-0001"}
    assert len(gone) == 2 * 4
    assert not any("train-0000" in name or "test" in name for name in gone)
    assert all(few[name] == all_[name] for name in few if name != "rooms.json")


def test_more_measured_rooms_than_rooms_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="mapped"):
        make_rooms(tmp_path / "rooms", replace(SMALL, mapped=3))


def test_depth_is_coded_as_the_benchmark_does(tmp_path: Path) -> None:
    out = make_rooms(tmp_path / "rooms", replace(SMALL, num=1, test=0, places=1))
    told = json.loads((out / "rooms.json").read_text())
    geometry = told["rooms"]["train-0000"]
    room = Room(
        size_m=tuple(geometry["size_m"]),
        boxes=tuple(
            Box(
                class_name=box["class_name"],
                low=tuple(box["low"]),
                high=tuple(box["high"]),
                absorption=box["absorption"],
            )
            for box in geometry["boxes"]
        ),
        walls=tuple(geometry["wall_absorption"]),
    )
    one = geometry["listeners"][0]
    listener = Listener(xyz=tuple(one["xyz"]), heading_rad=one["heading_rad"], source=HERE.source)
    far, kind = panorama(room, listener, (32, 64))
    with Image.open(out / "img/train-0000/depth/0.png") as picture:
        np.testing.assert_allclose(np.asarray(picture) / 65536 * 10, far, atol=1e-4)
    with Image.open(out / "img/train-0000/semantic_cat/0.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), kind)
    assert tuple(told["classes"]) == CLASSES


def test_a_folder_of_these_rooms_is_kept_and_any_other_is_not_touched(tmp_path: Path) -> None:
    options = replace(SMALL, num=1, test=0, places=1)
    out = make_rooms(tmp_path / "rooms", options)
    made = (out / "rooms.json").stat().st_mtime_ns
    calls: list[int] = []
    make_rooms(out, options, lambda done, _: calls.append(done))
    assert (out / "rooms.json").stat().st_mtime_ns == made
    assert not calls
    with pytest.raises(UsageError, match="something else is there"):
        make_rooms(out, replace(options, seed=1))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"num": 0, "test": 0}, "at least one room"),
        ({"num": -1}, "0 to"),
        ({"places": 0}, "places"),
        ({"seed": -1}, "seed"),
        ({"least_furniture": 5, "most_furniture": 2}, "furniture"),
        ({"duration_s": 0.0}, "duration_s"),
        ({"rate_hz": 100}, "rate_hz"),
        ({"early_order": 9}, "early_order"),
        ({"early_order": 3, "late_order": 2}, "late_order"),
        ({"grid_hw": (1, 64)}, "grid_hw"),
        ({"cell_m": 5.0}, "cell_m"),
    ],
)
def test_impossible_rooms_are_refused(tmp_path: Path, change: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        make_rooms(tmp_path / "rooms", replace(SMALL, **change))
    assert not (tmp_path / "rooms").exists()
