"""Processes for tests that kill or starve one: it has the imports, and forks a child for each job.

It never runs an operation itself, because a fork after the first one inherits locked thread pools.
Each line of input is a request and gives a line of output: a job gives its process id, `wait` the
exit code of that process.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import toy
from torch import Tensor

from xmodal.errors import XmodalError
from xmodal.train.checkpoint import checkpoint_path, prune_checkpoints, save_checkpoint
from xmodal.train.loop import Distill


@dataclass(frozen=True)
class Large:
    """Wants 16 GB for more rows than it is told."""

    most: int
    weight: float = 1.0

    def __call__(self, teacher: Any, student: Any, *, net: Any = None) -> Tensor:
        much = 1 << 32 if len(student.rows) > self.most else 1
        return student.rows.square().mean() + torch.zeros(much)[0]


def starve(out: Path, most: int) -> None:
    """Train with at most 512 MB more than now."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + (512 << 20), resource.RLIM_INFINITY))
    toy.train(out, edges=[Distill(Large(most), "lifted", "student")])


def resume(out: Path) -> None:
    """The run with everything that has a state, from where it is."""
    toy.full_run(out, resume=True)


def long(out: Path) -> None:
    """A run that does not end by itself."""
    toy.train(out, options=toy.replace(toy.OPTIONS, steps=1_000_000, log_every=1))


def write(folder: Path) -> None:
    """Checkpoints as fast as they come; step k holds nothing but k."""
    for step in range(1, 100_000):
        tensors = {f"t{i}": torch.full((200, 200), float(step)) for i in range(8)}
        save_checkpoint(checkpoint_path(folder, step), tensors, {"step": step})
        prune_checkpoints(folder, keep=2)


JOBS = {"starve": starve, "resume": resume, "long": long, "write": write}


def child(request: dict[str, Any]) -> None:
    code: Any = 1
    try:
        JOBS[request["job"]](Path(request["out"]), *request["args"])
        code = 0
    except XmodalError as error:
        code = error.exit_code
    except SystemExit as error:
        code = error.code
    finally:
        os._exit(code)


for line in sys.stdin:
    given = json.loads(line)
    if "wait" in given:
        answer = os.waitstatus_to_exitcode(os.waitpid(given["wait"], 0)[1])
    else:
        answer = os.fork()
        if answer == 0:
            child(given)
    print(json.dumps(answer), flush=True)
