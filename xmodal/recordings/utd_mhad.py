"""UTD-MHAD: 27 actions of eight people, with a wrist or thigh IMU and a Kinect skeleton.

    Inertial/a10_s1_t2_inertial.mat     d_iner [T, 6]: acceleration in g, rate of turn in deg/s
    Skeleton/a10_s1_t2_skeleton.mat     d_skel [20, 3, T]: joints, metres

The name says all: action a10, subject s1, trial t2. The group is the subject.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from xmodal.errors import DataError
from xmodal.graph.ports import Kind
from xmodal.recordings.ragged import Stream
from xmodal.recordings.recording import Recording, Recordings

# Chen et al., UTD-MHAD, ICIP 2015, table 2, in the order of the numbers in file names.
ACTIONS = (
    "swipe left",
    "swipe right",
    "wave",
    "clap",
    "throw",
    "cross arms",
    "basketball shoot",
    "draw x",
    "draw circle clockwise",
    "draw circle counter clockwise",
    "draw triangle",
    "bowling",
    "boxing",
    "baseball swing",
    "tennis swing",
    "arm curl",
    "tennis serve",
    "push",
    "knock",
    "catch",
    "pick up and throw",
    "jog",
    "walk",
    "sit to stand",
    "stand to sit",
    "forward lunge",
    "squat",
)
_NAME = re.compile(r"a(\d+)_s(\d+)_t(\d+)")
_FOLDERS: tuple[tuple[Kind, str, str], ...] = (
    ("imu", "Inertial", "inertial"),
    ("skeleton", "Skeleton", "skeleton"),
)


def open_utd_mhad(folder: Path) -> Recordings:
    """The sequences of a folder, by action, subject and trial.

    Raises:
        DataError: If there are none, or a file is named otherwise.
    """
    found: dict[str, dict[Kind, Path]] = {}
    for kind, inner, suffix in _FOLDERS:
        for path in sorted((folder / inner).glob("*.mat")):
            name = path.stem.removesuffix(f"_{suffix}")
            number = _NAME.fullmatch(name)
            if number is None or not 1 <= int(number[1]) <= len(ACTIONS):
                raise DataError(
                    str(path),
                    wanted=f"a name such as a10_s1_t2_{suffix}.mat, actions a1 to a{len(ACTIONS)}",
                    got=path.name,
                    fix="rename the file, or move it elsewhere",
                )
            found.setdefault(name, {})[kind] = path
    if not found:
        raise DataError(
            str(folder),
            wanted="Inertial/*.mat or Skeleton/*.mat of UTD-MHAD",
            got="none" if folder.is_dir() else "no such folder",
            fix="see data/utd_mhad.md for the layout",
        )
    items = [_recording(name, found[name]) for name in sorted(found, key=_numbers)]
    return Recordings(name=folder.name, items=tuple(items), classes=ACTIONS)


def _numbers(name: str) -> tuple[int, ...]:
    parts = _NAME.fullmatch(name)
    assert parts is not None, "checked when the file was found"
    return tuple(int(part) for part in parts.groups())


def _recording(name: str, paths: dict[Kind, Path]) -> Recording:
    action, subject, _ = _numbers(name)
    streams: dict[Kind, Callable[[], Stream]] = {
        kind: partial(_read, kind, path) for kind, path in paths.items()
    }
    return Recording(
        name=name,
        group=f"s{subject}",
        label=ACTIONS[action - 1],
        streams=streams,
        files=tuple(paths.values()),
    )


def _read(kind: Kind, path: Path) -> Stream:
    if kind == "imu":
        from xmodal.recordings.imu_files import read_imu

        return read_imu(path)
    from xmodal.recordings.skeleton_files import read_skeleton

    return read_skeleton(path)
