"""Checkpoints that cannot be written while training (fault matrix row 34), by policy."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from xmodal.errors import CheckpointError
from xmodal.train.checkpoint import checkpoints, load_checkpoint

Limit = Callable[[int], None]


@pytest.fixture
def file_limit() -> Iterator[Limit]:
    """Sets how large a file may grow; writing more is an error and not a signal."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_stops_the_run_by_default(
    toy: ModuleType, tmp_path: Path, file_limit: Limit
) -> None:
    options = replace(toy.OPTIONS, checkpoint_every=1)
    full = toy.stop_at(2, lambda: file_limit(4000))
    with pytest.raises(CheckpointError, match="bytes free") as caught:
        toy.train(tmp_path, options=options, progress=full)
    assert "earlier checkpoints are intact" in caught.value.fix
    found = checkpoints(tmp_path / "checkpoints")
    assert [path.name for path in found] == ["step-00000001", "step-00000002"]
    load_checkpoint(found[-1])


def test_a_full_disk_may_be_waited_out(toy: ModuleType, tmp_path: Path, file_limit: Limit) -> None:
    options = replace(toy.OPTIONS, checkpoint_every=1, on_save_error="continue")

    def change(done: int, total: int) -> None:
        if done in (2, 4):
            file_limit(4000 if done == 2 else resource.RLIM_INFINITY)

    made, _ = toy.train(tmp_path, options=options, progress=change)
    found = [int(path.name[-1]) for path in checkpoints(tmp_path / "checkpoints")]
    assert found == [1, 2, 5, 6]
    assert (tmp_path / "log.jsonl").read_text().count("checkpoint_not_written") == 2
    assert toy.same(toy.state(made), toy.state(toy.train(tmp_path / "whole")[0]))


def test_the_last_checkpoint_must_be_written(
    toy: ModuleType, tmp_path: Path, file_limit: Limit
) -> None:
    options = replace(toy.OPTIONS, checkpoint_every=1, on_save_error="continue")
    full = toy.stop_at(2, lambda: file_limit(4000))
    with pytest.raises(CheckpointError, match="step-00000006"):
        toy.train(tmp_path, options=options, progress=full)
    assert checkpoints(tmp_path / "checkpoints")[-1].name == "step-00000002"


def test_a_run_folder_that_is_a_file_is_named(toy: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(CheckpointError, match="checkpoints"):
        toy.train(tmp_path)
