"""Recordings: what a data set must be, its layouts, and ragged values."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from xmodal.errors import DataError, UsageError
from xmodal.recordings.disturbing import Disturbance, disturbed
from xmodal.recordings.inputs import Clips
from xmodal.recordings.opening import open_recordings
from xmodal.recordings.ragged import join, take_samples
from xmodal.recordings.recording import Recording, Recordings, gather
from xmodal.recordings.sound_folders import class_of
from xmodal.recordings.utd_mhad import ACTIONS
from xmodal.values import Imu, Labels, Video


def imu(num: int, value: float = 1.0) -> Imu:
    return Imu(
        accel_mps2=torch.full((num, 3), value),
        gyro_radps=torch.zeros(num, 3),
        time_s=torch.arange(num) / 50.0,
        offsets=torch.tensor([0, num]),
    )


def made(name: str = "a", label: str | None = "nod") -> Recording:
    return Recording(name=name, group="g", label=label, streams={"imu": partial(imu, 4)})


def test_gathered_streams_stand_one_after_another(synthetic: ModuleType) -> None:
    whole = synthetic.recordings(groups=1, each=1)
    value = gather(whole, "imu")
    assert isinstance(value, Imu)
    assert value.offsets.tolist() == [0, 80, 160, 240]
    assert torch.equal(value.gyro_radps[80:160], whole.items[1].streams["imu"]().gyro_radps)


def test_a_recording_without_the_stream_has_an_empty_range() -> None:
    bare = replace(made("b"), streams={"skeleton": partial(imu, 2)})
    value = gather(Recordings(name="x", items=(made(), bare, made("c")), classes=("nod",)), "imu")
    assert isinstance(value, Imu)
    assert value.offsets.tolist() == [0, 4, 4, 8]


def test_labels_count_classes_in_their_order() -> None:
    items = (made("a", "shake"), made("b", None), made("c", "nod"))
    found = gather(Recordings(name="x", items=items, classes=("nod", "shake")), "labels")
    assert isinstance(found, Labels)
    assert found.ids.tolist() == [1, -1, 0]


def test_taken_samples_are_in_the_order_asked_for() -> None:
    whole = join([imu(2, 1.0), imu(3, 2.0), imu(1, 3.0)], "x")
    some = take_samples(whole, [2, 0])
    assert some.offsets.tolist() == [0, 1, 3]
    assert some.accel_mps2[:, 0].tolist() == [3.0, 1.0, 1.0]


def test_windows_at_one_place_are_of_one_moment() -> None:
    clips = Clips(torch.arange(7.0)[:, None], torch.tensor([0, 4, 4, 7]))
    places = torch.tensor([0, 0, 1, 2])
    at = torch.tensor([0.0, 0.99, 0.5, 0.5])
    assert clips.windows_at(places, at).tolist() == [0, 3, -1, 5]
    assert clips.take(torch.tensor([2, 1])).inputs[:, 0].tolist() == [4.0, 5.0, 6.0]


@pytest.mark.parametrize(
    ("items", "match"),
    [
        ((), "at least one recording"),
        ((made(), made()), "different names"),
        ((made("a b"),), "without blanks"),
        ((replace(made(), streams={}),), "at least one stream"),
        ((made(label="jump"),), "classes among nod"),
    ],
)
def test_unfit_data_sets_are_refused(items: tuple[Recording, ...], match: str) -> None:
    with pytest.raises(DataError, match=match):
        Recordings(name="x", items=items, classes=("nod",))


def test_numbers_that_are_none_are_refused() -> None:
    bad = imu(4)
    bad.accel_mps2[2, 1] = float("nan")
    whole = Recordings(name="x", items=(replace(made(), streams={"imu": lambda: bad}),),
                       classes=("nod",))  # fmt: skip
    with pytest.raises(DataError, match="recording a, imu"):
        gather(whole, "imu")


def test_streams_that_nobody_has_are_refused(synthetic: ModuleType) -> None:
    with pytest.raises(DataError, match="at least one recording with audio"):
        gather(synthetic.recordings(groups=1), "audio")


def test_rates_that_differ_are_refused(synthetic: ModuleType) -> None:
    slow = partial(synthetic.tone, 0, 0, rate_hz=8000.0)
    fast = partial(synthetic.tone, 0, 0)
    items = tuple(
        Recording(name=name, group="g", streams={"audio": read})
        for name, read in (("a", slow), ("b", fast))
    )
    with pytest.raises(DataError, match="same rate_hz"):
        gather(Recordings(name="x", items=items), "audio")


# ---- layouts ----------------------------------------------------------------------------------


def test_sounds_in_folders(tmp_path: Path, synthetic: ModuleType) -> None:
    for fold, name in ((1, "1-100032-A"), (2, "2-77-B")):
        synthetic.write_tone(tmp_path / "001_-_Dog_bark" / f"{name}.wav", 0, fold)
    synthetic.write_tone(tmp_path / "002 - Rain" / "shower.wav", 1, 0)
    found = open_recordings(tmp_path, "sound_folders")
    assert found.classes == ("dog bark", "rain")
    assert [item.group for item in found.items] == ["1", "2", "shower"]
    assert found.kinds == ("audio", "labels")


def test_sounds_with_a_table(tmp_path: Path, synthetic: ModuleType) -> None:
    synthetic.write_tone(tmp_path / "audio" / "1-1-A-0.wav", 0, 0)
    (tmp_path / "meta").mkdir()
    table = tmp_path / "meta" / "esc50.csv"
    table.write_text("filename,fold,target,category\n1-1-A-0.wav,4,0,sea_waves\n")
    found = open_recordings(tmp_path, "sound_folders")
    assert (found.items[0].label, found.items[0].group) == ("sea waves", "4")
    table.write_text("filename,fold,target,category\nlost.wav,4,0,dog\n")
    with pytest.raises(DataError, match="1 missing: lost"):
        open_recordings(tmp_path, "sound_folders")
    table.write_text("file,fold\nx,1\n")
    with pytest.raises(DataError, match="columns filename"):
        open_recordings(tmp_path, "sound_folders")


@pytest.mark.parametrize(
    ("folder", "name"),
    [("001_-_Dog_bark", "dog bark"), ("Rain", "rain"), ("12", "12"), ("3. Sea waves", "sea waves")],
)
def test_folders_name_classes(folder: str, name: str) -> None:
    assert class_of(folder) == name


def test_files_of_one_stem_are_one_recording(tmp_path: Path, synthetic: ModuleType) -> None:
    synthetic.write_motions(tmp_path, groups=1, each=1)
    synthetic.write_tone(tmp_path / "nod_g0_t0.wav", 0, 0)
    found = open_recordings(tmp_path, "clips")
    by_name = {item.name: item for item in found.items}
    assert set(by_name["nod_g0_t0"].streams) == {"imu", "audio"}
    assert by_name["rest_g0_t0"].group == "g0"
    assert found.classes == ("nod", "rest", "shake")
    before = found.fingerprint
    synthetic.write_tone(tmp_path / "nod_g0_t0.wav", 1, 0)
    assert open_recordings(tmp_path, "clips").fingerprint != before


@pytest.mark.parametrize(
    ("table", "match"),
    [
        ("label\nnod\n", "column `name`"),
        ("name,label\nlost,nod\n", "lost"),
        ("name,label\na,nod\na,nod\n", "each recording once"),
    ],
)
def test_tables_that_do_not_fit_are_refused(
    tmp_path: Path, synthetic: ModuleType, table: str, match: str
) -> None:
    synthetic.write_tone(tmp_path / "a.wav", 0, 0)
    (tmp_path / "labels.csv").write_text(table)
    with pytest.raises(DataError, match=match):
        open_recordings(tmp_path, "clips")


def test_two_files_for_a_stream_are_refused(tmp_path: Path, synthetic: ModuleType) -> None:
    synthetic.write_tone(tmp_path / "a.wav", 0, 0)
    synthetic.write_tone(tmp_path / "a_audio.wav", 0, 0)
    with pytest.raises(DataError, match="one file with the audio of a"):
        open_recordings(tmp_path, "clips")


@pytest.mark.parametrize("name", ["utd_mhad", "sound_folders", "clips"])
def test_empty_and_missing_folders_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"none|no sounds"):
        open_recordings(tmp_path, name)
    with pytest.raises(DataError, match="no such folder"):
        open_recordings(tmp_path / "nowhere", name)


def test_unknown_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a format of recordings"):
        open_recordings(tmp_path, "esc")


def test_names_of_utd_mhad_say_all(tmp_path: Path) -> None:
    (tmp_path / "Inertial").mkdir()
    for name in ("a10_s2_t1", "a2_s1_t1"):
        (tmp_path / "Inertial" / f"{name}_inertial.mat").write_bytes(b"")
    found = open_recordings(tmp_path, "utd_mhad")
    assert found.names == ("a2_s1_t1", "a10_s2_t1")
    assert found.items[1].label == ACTIONS[9]
    assert found.items[1].group == "s2"
    (tmp_path / "Inertial" / "a28_s1_t1_inertial.mat").write_bytes(b"")
    with pytest.raises(DataError, match="a1 to a27"):
        open_recordings(tmp_path, "utd_mhad")


# ---- disturbances -------------------------------------------------------------------------------


def test_noise_is_of_the_size_asked_for(synthetic: ModuleType) -> None:
    whole = synthetic.recordings(groups=1)
    noisy = disturbed(whole, Disturbance(noise={"imu": 0.5}))
    first, again = (noisy.items[0].streams["imu"]() for _ in range(2))
    assert torch.equal(first.accel_mps2, again.accel_mps2)
    clean = whole.items[0].streams["imu"]()
    share = (first.accel_mps2 - clean.accel_mps2).std() / clean.accel_mps2.std()
    assert float(share) == pytest.approx(0.5, rel=0.2)


def test_films_have_noise_within_their_levels() -> None:
    film = Video(
        rgb=torch.arange(2 * 3 * 8 * 8).reshape(2, 3, 8, 8).remainder(256).to(torch.uint8),
        time_s=torch.tensor([0.0, 0.1]),
        offsets=torch.tensor([0, 2]),
    )
    item = Recording(name="one", group="one", streams={"video": lambda: film})
    whole = Recordings(name="films", items=(item,))
    first, again = (
        disturbed(whole, Disturbance(noise={"video": 0.5})).items[0].streams["video"]()
        for _ in range(2)
    )
    assert first.rgb.dtype == torch.uint8
    assert torch.equal(first.rgb, again.rgb)
    moved = first.rgb.float() - film.rgb.float()
    inner = (film.rgb > 100) & (film.rgb < 155)
    assert float(moved[inner].std()) == pytest.approx(0.5 * float(film.rgb.float().std()), rel=0.3)


def test_swapped_streams_are_of_others(synthetic: ModuleType) -> None:
    whole = synthetic.recordings(groups=1)
    swapped = disturbed(whole, Disturbance(swapped=("imu",)))
    for mine, theirs in zip(whole.items, swapped.items, strict=True):
        assert not np.array_equal(
            mine.streams["imu"]().gyro_radps, theirs.streams["imu"]().gyro_radps
        )
        assert torch.equal(
            mine.streams["skeleton"]().joints_m, theirs.streams["skeleton"]().joints_m
        )


def test_missing_streams_are_gone(synthetic: ModuleType) -> None:
    found = disturbed(synthetic.recordings(groups=1), Disturbance(missing={"imu": 1.0}))
    assert found.kinds == ("skeleton", "labels")


def test_a_part_of_some_recordings_lacks_a_stream(synthetic: ModuleType) -> None:
    whole = synthetic.recordings(groups=4)
    half = Disturbance(missing={"imu": 0.5, "skeleton": 0.5})
    found = disturbed(whole, half, places=range(12))
    has = [(("imu" in item.streams), ("skeleton" in item.streams)) for item in found.items]
    assert has[12:] == [(True, True)] * 12
    assert sum(not imu for imu, _ in has) == 6
    assert sum(not body for _, body in has) == 6
    assert (False, False) not in has


@pytest.mark.parametrize(
    ("disturbance", "match"),
    [
        (Disturbance(missing={"audio": 1.0}), "streams among imu"),
        (Disturbance(missing={"imu": 1.0, "skeleton": 1.0}), "at least one stream"),
    ],
)
def test_disturbances_of_nothing_are_refused(
    synthetic: ModuleType, disturbance: Disturbance, match: str
) -> None:
    with pytest.raises(UsageError, match=match):
        disturbed(synthetic.recordings(groups=1), disturbance)


@pytest.mark.realdata
def test_real_folders_open() -> None:
    root = os.environ.get("XMODAL_DATA")
    if root is None:
        pytest.skip("set XMODAL_DATA to the folder that holds utd_mhad_s1to6 and esc10_folds123")
    motions = open_recordings(Path(root) / "utd_mhad_s1to6", "utd_mhad")
    assert (len(motions), len(motions.classes)) == (646, 27)
    assert {item.group for item in motions.items} == {f"s{i}" for i in range(1, 7)}
    sounds = open_recordings(Path(root) / "esc10_folds123", "sound_folders")
    assert (len(sounds), len(sounds.classes)) == (240, 10)
    assert {item.group for item in sounds.items} == {"1", "2", "3"}
    film = open_recordings(Path(root) / "gopro_video_audio_imu", "clips")
    assert film.kinds == ("audio", "imu", "video")
    assert len(film) == 1
