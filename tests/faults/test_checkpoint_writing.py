"""Checkpoints that cannot be written or are killed half-way (fault matrix rows 33 and 34)."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from xmodal.atomic import atomic_folder, atomic_path, remove_leftovers, write_bytes, write_json
from xmodal.errors import CheckpointError, DataError
from xmodal.train.checkpoint import (
    checkpoints,
    load_checkpoint,
    save_checkpoint,
)


@contextmanager
def file_size_limit(num_bytes: int) -> Iterator[None]:
    """No file may grow beyond this; writing more is an error and not a signal."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_keeps_the_old_checkpoint_and_says_how_much_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "c"
    save_checkpoint(path, {"x": torch.zeros(3)}, {})
    with file_size_limit(10_000), pytest.raises(CheckpointError) as caught:
        save_checkpoint(path, {"x": torch.zeros(100_000)}, {})
    assert "400" in caught.value.wanted
    assert "bytes free" in caught.value.got
    assert torch.equal(load_checkpoint(path).tensors["x"], torch.zeros(3))
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_a_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_bytes(path, b"old")
    with file_size_limit(100), pytest.raises(DataError, match="1000 bytes"):
        write_bytes(path, bytes(1000))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["file", "folder", "checkpoint"])
def test_a_parent_that_is_no_folder_is_named(tmp_path: Path, kind: str) -> None:
    (tmp_path / "blocked").write_text("a file")
    path = tmp_path / "blocked" / "x"
    with pytest.raises(DataError, match="blocked"):
        if kind == "file":
            write_json(path, {})
        elif kind == "folder":
            with atomic_folder(path):
                pass
        else:
            save_checkpoint(path, {}, {})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    with pytest.raises(CheckpointError, match="locked"):
        save_checkpoint(folder / "c", {}, {})


def test_an_error_in_the_block_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    with pytest.raises(KeyError), atomic_path(path) as temporary:
        temporary.write_text("new")
        raise KeyError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_in_the_block_leaves_the_old_folder(tmp_path: Path) -> None:
    path = tmp_path / "d"
    with atomic_folder(path) as temporary:
        (temporary / "f").write_text("old")
    with pytest.raises(KeyError), atomic_folder(path) as temporary:
        raise KeyError
    assert (path / "f").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_about_another_file_is_not_called_a_failed_write(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(FileNotFoundError), atomic_path(out / "f"):
        (tmp_path / "missing").read_bytes()


def test_leftovers_of_dead_writers_go_and_others_stay(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for name in (f".a.tmp-{dead.pid}-00000000", ".b.tmp-1-00000000", ".hidden", "c"):
        (tmp_path / name).write_text("")
    (tmp_path / f".d.tmp-{dead.pid}-00000001").mkdir()
    removed = remove_leftovers(tmp_path)
    assert [path.name[:3] for path in removed] == [".a.", ".d."]
    assert {path.name[:3] for path in tmp_path.iterdir()} == {".b.", ".hi", "c"}
    assert remove_leftovers(tmp_path / "nowhere") == []


@pytest.mark.parametrize("trials", [6, pytest.param(100, marks=pytest.mark.slow)])
def test_a_writer_killed_at_random_times_never_loses_a_checkpoint(
    nursery: Any, tmp_path: Path, trials: int
) -> None:
    generator = torch.Generator().manual_seed(trials)
    for trial in range(trials):
        folder = tmp_path / str(trial % 4)  # so that old checkpoints are met, and replaced
        writer = nursery.start("write", folder)
        while not checkpoints(folder):
            time.sleep(0.002)
        time.sleep(0.05 * float(torch.rand(1, generator=generator)))
        os.kill(writer, signal.SIGKILL)
        nursery.wait(writer)
        found = checkpoints(folder)
        for path in found:
            checkpoint = load_checkpoint(path)
            assert checkpoint.tensors["t7"][0, 0] == checkpoint.meta["step"]
        remove_leftovers(folder)
        assert sorted(folder.iterdir()) == found
