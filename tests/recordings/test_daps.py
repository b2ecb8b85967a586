"""Rooms as recordings: the benchmark's layout, maps by name, and what is wrong with files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from PIL import Image

from xmodal.edges.lift.cells import MapCells
from xmodal.errors import DataError, UsageError
from xmodal.recordings.disturbing import Disturbance, disturbed
from xmodal.recordings.opening import open_recordings
from xmodal.recordings.recording import gather
from xmodal.rooms import RoomSet, make_rooms
from xmodal.values import Audio, Grids, Video


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = RoomSet(num=2, test=1, places=2, duration_s=0.1, late_order=4, grid_hw=(8, 16))
    return make_rooms(tmp_path_factory.mktemp("rooms") / "rooms", options)


@pytest.fixture
def rooms(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    shutil.copytree(made, tmp_path / "rooms")
    return tmp_path / "rooms"


def grid(rows: list[float], hw: tuple[int, int], valid: list[bool] | None = None) -> Grids:
    known = torch.tensor(valid or [True] * len(rows))
    return Grids(
        rows=torch.tensor(rows)[:, None],
        valid=known,
        weight=known.float(),
        grid_hw=hw,
        offsets=torch.arange(0, len(rows) + 1, hw[0] * hw[1]),
    )


def published(folder: Path) -> Path:
    """Two places as the benchmark's tools and SoundSpaces write them."""
    for name in ("depth", "semantic_cat", "rgb"):
        (folder / "img" / "2t7WUuJeko7" / name).mkdir(parents=True)
    sounds = folder / "binaural_rirs" / "mp3d" / "2t7WUuJeko7" / "0"
    sounds.mkdir(parents=True)
    inner = folder / "img" / "2t7WUuJeko7"
    for place in (2, 10):
        far = np.full((4, 8), 2.5)
        far[0, 0] = 0.0
        Image.fromarray((far / 10 * 65536).astype(np.uint16)).save(inner / f"depth/{place}.png")
        Image.fromarray(np.eye(4, 8, dtype=np.uint8)).save(inner / f"semantic_cat/{place}.png")
        Image.new("RGB", (8, 4), (255, 0, 0)).save(inner / f"rgb/{place}.jpg")
        soundfile.write(sounds / f"{place}_{place}.wav", np.full((1600, 2), 0.25), 16000)
    return folder


def test_rooms_are_recordings_of_places_grouped_by_room(made: Path) -> None:
    found = open_recordings(made, "daps")
    assert found.names == (
        "test-0000_0", "test-0000_1", "train-0000_0", "train-0000_1", "train-0001_0",
        "train-0001_1",
    )  # fmt: skip
    assert [item.group for item in found.items[:3]] == ["test-0000", "test-0000", "train-0000"]
    assert found.kinds == ("audio", "video", "grids")
    assert found.maps == ("depth", "semantics", "occupancy", "voxels")
    sound = gather(found, "audio")
    assert isinstance(sound, Audio)
    assert sound.amplitudes.shape == (4, 6 * 1600)
    film = gather(found, "video")
    assert isinstance(film, Video)
    assert film.rgb.shape == (6, 3, 96, 192)


def test_a_map_is_read_by_its_name(made: Path) -> None:
    item = open_recordings(made, "daps").items[0]
    for name, hw in (
        ("depth", (8, 16)),
        ("semantics", (8, 16)),
        ("occupancy", (32, 32)),
        ("voxels", (112, 16)),
    ):
        value = item.read("grids", name)
        assert isinstance(value, Grids)
        assert value.grid_hw == hw
        assert value.rows.shape == (hw[0] * hw[1], 1)
        assert bool(value.valid.all())
    assert item.read("grids", "height") is None
    assert item.read("grids") is None


def test_the_published_layout_is_read(tmp_path: Path) -> None:
    found = open_recordings(published(tmp_path), "daps")
    assert found.names == ("2t7WUuJeko7_2", "2t7WUuJeko7_10")  # places by number
    assert found.maps == ("depth", "semantics")
    item = found.items[0]
    depth, kinds = item.read("grids", "depth"), item.read("grids", "semantics")
    assert isinstance(depth, Grids)
    assert isinstance(kinds, Grids)
    assert depth.valid.tolist() == [False] + [True] * 31
    torch.testing.assert_close(depth.rows[1:], torch.full((31, 1), 2.5))
    # 0 is what belongs to no class.
    assert kinds.valid.nonzero().squeeze(1).tolist() == [0, 9, 18, 27]
    sound = item.read("audio")
    assert isinstance(sound, Audio)
    assert sound.amplitudes.shape == (2, 1600)


def test_the_fingerprint_sees_every_map(rooms: Path) -> None:
    before = open_recordings(rooms, "daps").fingerprint
    path = rooms / "occupancy" / "train-0000" / "0.png"
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(path)
    assert open_recordings(rooms, "daps").fingerprint != before


def test_a_folder_without_rooms_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="img/SCENE/depth/PLACE"):
        open_recordings(tmp_path, "daps")


def test_a_place_without_sound_is_refused(rooms: Path) -> None:
    (rooms / "audio" / "train-0000" / "1.wav").unlink()
    with pytest.raises(DataError, match="the sound of place 1 of train-0000"):
        open_recordings(rooms, "daps")


def test_a_place_may_lack_a_map(rooms: Path) -> None:
    (rooms / "occupancy" / "train-0000" / "1.png").unlink()
    found = open_recordings(rooms, "daps")
    lacking = found.items[found.names.index("train-0000_1")]
    assert lacking.read("grids", "occupancy") is None
    assert lacking.read("grids", "depth") is not None


def test_a_place_that_nobody_measured_is_heard_and_seen(rooms: Path) -> None:
    for name in ("occupancy", "voxels"):
        shutil.rmtree(rooms / name / "train-0001")
    for name in ("depth", "semantic_cat"):
        shutil.rmtree(rooms / "img" / "train-0001" / name)
    found = open_recordings(rooms, "daps")
    assert found.names.index("train-0001_0") == 4
    item = found.items[4]
    assert not item.maps
    assert isinstance(item.read("video"), Video)
    assert isinstance(item.read("audio"), Audio)


@pytest.mark.parametrize(
    ("name", "pixels", "match"),
    [
        ("img/train-0000/depth/0.png", np.zeros((4, 8), np.uint8), "uint16"),
        ("img/train-0000/depth/0.png", np.zeros((4, 8, 3), np.uint8), "one channel"),
        ("img/train-0000/semantic_cat/0.png", np.zeros((4, 8), np.uint16), "uint8"),
        ("occupancy/train-0000/0.png", np.full((4, 4), 255, np.uint8), "up to 255"),
    ],
)
def test_maps_of_another_code_are_refused(
    rooms: Path, name: str, pixels: NDArray[Any], match: str
) -> None:
    Image.fromarray(pixels).save(rooms / name)
    found = open_recordings(rooms, "daps")
    item = found.items[found.names.index("train-0000_0")]
    with pytest.raises(DataError, match=match):
        for one in item.maps:
            item.read("grids", one)


def test_a_cut_picture_is_refused(rooms: Path) -> None:
    path = rooms / "img" / "train-0000" / "depth" / "0.png"
    path.write_bytes(path.read_bytes()[:60])
    found = open_recordings(rooms, "daps")
    with pytest.raises(DataError, match="a picture"):
        found.items[found.names.index("train-0000_0")].read("grids", "depth")


def test_maps_can_be_taken_away_and_swapped_but_not_made_noisy(made: Path) -> None:
    found = open_recordings(made, "daps")
    without = disturbed(found, Disturbance(missing={"grids": 1.0}))
    assert without.maps == ()
    assert without.kinds == ("audio", "video")
    swapped = disturbed(found, Disturbance(swapped=("grids",)))
    own, other = (x.items[0].read("grids", "depth") for x in (found, swapped))
    assert isinstance(own, Grids)
    assert isinstance(other, Grids)
    assert not torch.equal(own.rows, other.rows)
    with pytest.raises(UsageError, match="not noisy"):
        disturbed(found, Disturbance(noise={"grids": 1.0}))


# ---- the op that makes rows of maps ------------------------------------------------------------


def test_values_stay_and_cells_without_a_reading_are_not_valid() -> None:
    op = MapCells()
    assert (op.channels, op.space) == (1, "raw")
    found = op(grid([1.0, 2.0, 9.0, 4.0], (2, 2), [True, True, False, True]))
    assert found.rows.tolist() == [[1.0], [2.0], [0.0], [4.0]]
    assert found.valid.tolist() == [True, True, False, True]


def test_classes_become_one_hot_rows() -> None:
    op = MapCells(names=("free", "occupied"))
    assert (op.channels, op.space, op.row_names) == (2, "simplex", ("free", "occupied"))
    found = op(grid([0.0, 1.0], (1, 2)))
    assert found.rows.tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_coarser_cells_are_means_of_what_is_known_by_hand() -> None:
    two = grid([1, 3, 5, 7, 2, 2, 5, 7, 0, 0, 4, 4, 0, 0, 4, 8.0], (4, 4))
    marks = [True] * 8 + [False, False, True, True] * 2
    op = MapCells(grid_hw=(2, 2))
    found = op(grid(two.rows[:, 0].tolist(), (4, 4), marks))
    torch.testing.assert_close(found.rows, torch.tensor([[2.0], [6.0], [0.0], [5.0]]))
    assert found.valid.tolist() == [True, True, False, True]
    assert found.weight.tolist() == [1.0, 1.0, 0.0, 1.0]
    assert found.grid_hw == (2, 2)
    shares = MapCells(names=("a", "b"), grid_hw=(1, 1))(grid([0.0, 1.0, 1.0, 1.0], (2, 2)))
    assert shares.rows.tolist() == [[0.25, 0.75]]


def test_several_samples_stay_apart() -> None:
    found = MapCells(grid_hw=(1, 1))(grid([1.0, 1.0, 3.0, 3.0], (1, 2)))
    assert found.rows.tolist() == [[1.0], [3.0]]
    assert found.offsets.tolist() == [0, 1, 2]


def test_numbers_without_a_name_and_unfit_grids_are_refused() -> None:
    op = MapCells(names=("free", "occupied"))
    with pytest.raises(DataError, match="from 0 to 1"):
        op(grid([2.0], (1, 1)))
    with pytest.raises(DataError, match=r"0\.5"):
        op(grid([0.5], (1, 1)))
    with pytest.raises(DataError, match="divides"):
        MapCells(grid_hw=(2, 2))(grid([1.0, 2.0, 3.0], (1, 3)))
    with pytest.raises(DataError, match="2 channels"):
        wide = op(grid([0.0], (1, 1)))
        MapCells()(wide)
    with pytest.raises(ValueError, match="two or more"):
        MapCells(names=("free",))
    with pytest.raises(ValueError, match="grid_hw"):
        MapCells(grid_hw=(0, 4))
