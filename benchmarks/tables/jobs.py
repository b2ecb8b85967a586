"""Jobs: functions with settings, each in a process of its own, each with one cached result."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xmodal.atomic import write_json

# Raise when a change of code makes earlier results wrong.
_REVISION = 1
Function = Callable[[Path, Mapping[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Job:
    """What to compute.

    Attributes:
        name: For people; part of the file name.
        function: A function of a module (it is called in another process) that takes the work
            folder and the settings.
        settings: JSON values; together with the function's name they decide the result.
    """

    name: str
    function: Function
    settings: Mapping[str, Any] = field(default_factory=dict)

    def path(self, work: Path) -> Path:
        """Where the result is kept."""
        told = [self.function.__module__, self.function.__qualname__, dict(self.settings)]
        text = json.dumps([_REVISION, *told], sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()[:12]
        return work / "jobs" / f"{self.name.replace('/', '_')}-{key}.json"

    def result(self, work: Path) -> dict[str, Any]:
        """The cached result."""
        return json.loads(self.path(work).read_text())


def run_jobs(jobs: Sequence[Job], work: Path, workers: int) -> dict[str, dict[str, Any]]:
    """Results by name; what is cached is not computed again.

    Raises:
        RuntimeError: If some failed; the others are finished and kept.
    """
    todo = [job for job in jobs if not job.path(work).is_file()]
    # A fresh process for each job: its peak memory is then its own.
    context = multiprocessing.get_context("spawn")
    failed: list[str] = []
    with ProcessPoolExecutor(workers, mp_context=context, max_tasks_per_child=1) as pool:
        waiting = {pool.submit(_compute, job, work): job for job in todo}
        for count, future in enumerate(as_completed(waiting), start=1):
            name, error = waiting[future].name, future.exception()
            if error is not None:
                failed.append(f"{name}: {type(error).__name__}: {error}")
            took = "failed" if error else f"{future.result():.0f} s"
            print(f"  {count}/{len(todo)} {name}: {took}", file=sys.stderr, flush=True)
    if failed:
        raise RuntimeError("\n".join([f"{len(failed)} jobs failed:", *failed]))
    return {job.name: job.result(work) for job in jobs}


def _compute(job: Job, work: Path) -> float:
    import torch

    torch.set_num_threads(1)
    began = time.monotonic()
    result = job.function(work, job.settings)
    seconds = time.monotonic() - began
    result |= {"seconds": round(seconds, 1), "peak_mb": peak_mb(), "settings": dict(job.settings)}
    path = job.path(work)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, result)
    return seconds


def peak_mb() -> int:
    """Most memory that this process ever held."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
