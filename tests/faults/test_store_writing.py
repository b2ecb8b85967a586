"""Stores that are written twice at once, or whose writer is killed (fault matrix row 26)."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from xmodal import atomic
from xmodal.atomic import atomic_folder, remove_leftovers
from xmodal.errors import DataError
from xmodal.store import FeatureInfo, Run

NUM, CHANNELS = 4000, 32
# Writes generation after generation, each with rows that are all the same number.
_WRITER = """
import sys
from pathlib import Path
import numpy as np
from tests.faults.test_store_writing import write
print("ready", flush=True)
for generation in range(int(sys.argv[2]), 10**9, 2):
    write(Path(sys.argv[1]), generation % 1000)
"""


_NURSERY = """
import os
import sys
from pathlib import Path
from tests.faults.test_store_writing import write
print("ready", flush=True)
for line in sys.stdin:
    writer = os.fork()
    if writer == 0:
        for generation in range(int(line), 10**9):
            write(Path(sys.argv[1]), generation % 1000)
    print(writer, flush=True)
    os.waitpid(writer, 0)
    print("gone", flush=True)
"""


def write(path: Path, value: int) -> None:
    described = FeatureInfo(
        teacher=str(value), space="raw", channels=CHANNELS, num_points=NUM, num_valid=NUM,
        fingerprint="f", cosine_error=0.0,
    )  # fmt: skip
    Run(path).write_features(
        "lifted",
        described,
        rows=np.full((NUM, CHANNELS), value, np.float32),
        valid=np.ones(NUM, np.bool_),
        weight=np.full(NUM, value, np.float32),
        num_views=np.full(NUM, value, np.int32),
        disagreement=np.zeros(NUM, np.float32),
    )


def check(path: Path) -> int:
    """The generation that a reader sees, after making sure that it sees one and no mixture."""
    features = Run(path).features("lifted")
    value = int(features.info.teacher)
    assert (np.asarray(features.rows) == value).all()
    assert (features.weight == value).all() and (features.num_views == value).all()
    return value


def start(path: Path, first: int, program: str = _WRITER) -> subprocess.Popen[str]:
    root = Path(__file__).resolve().parents[2]
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(path), str(first)],
        cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline().strip() == "ready"
    return child


def stop(child: subprocess.Popen[str]) -> None:
    child.send_signal(signal.SIGKILL)
    child.wait()
    for pipe in (child.stdin, child.stdout):
        assert pipe is not None
        pipe.close()


def test_readers_see_one_generation_while_two_writers_write(tmp_path: Path) -> None:
    write(tmp_path, 1)
    writers = [start(tmp_path, 2), start(tmp_path, 3)]
    try:
        seen: set[int] = set()
        end = time.monotonic() + 1
        while time.monotonic() < end or (len({v % 2 for v in seen}) < 2 and len(seen) < 1000):
            seen.add(check(tmp_path))
        assert len(seen) > 2
        assert all(child.poll() is None for child in writers), "a writer failed"
    finally:
        for child in writers:
            stop(child)
    check(tmp_path)


def kill_writers(path: Path, trials: int) -> None:
    write(path, 1)
    rng = random.Random(0)
    # One process imports everything once and forks a writer for each trial.
    nursery = start(path, 0, _NURSERY)
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    try:
        for _ in range(trials):
            nursery.stdin.write(f"{check(path) + 1}\n")
            nursery.stdin.flush()
            writer = int(nursery.stdout.readline())
            time.sleep(rng.uniform(0, 0.1))
            os.kill(writer, signal.SIGKILL)
            assert nursery.stdout.readline().strip() == "gone"
            check(path)
    finally:
        stop(nursery)
    remove_leftovers(path / "features")
    assert sorted(p.name for p in (path / "features").iterdir()) == [".lock", "lifted"]


def test_a_killed_writer_leaves_the_old_store_or_the_new(tmp_path: Path) -> None:
    kill_writers(tmp_path, 5)


@pytest.mark.slow
def test_a_hundred_killed_writers_lose_nothing(tmp_path: Path) -> None:
    kill_writers(tmp_path, 100)


def test_an_error_while_writing_keeps_the_old_store(tmp_path: Path) -> None:
    write(tmp_path, 1)
    described = Run(tmp_path).info("lifted")
    rows = np.full((NUM, CHANNELS), np.nan, np.float32)
    with pytest.raises(DataError):
        Run(tmp_path).write_features("lifted", described, rows=rows, valid=np.ones(NUM, np.bool_))
    assert check(tmp_path) == 1
    assert sorted(p.name for p in (tmp_path / "features").iterdir()) == [".lock", "lifted"]


def test_folders_are_replaced_where_they_cannot_be_exchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unknown flag makes the system call fail as on a system without it."""
    monkeypatch.setattr(atomic, "_RENAME_EXCHANGE", 1 << 20)
    for text in ("old", "new"):
        with atomic_folder(tmp_path / "f") as work:
            (work / "x").write_text(text)
    assert (tmp_path / "f" / "x").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
