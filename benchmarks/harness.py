"""What all benchmarks share: interleaved timing, peak memory in fresh processes, one JSON line.

A benchmark module defines `BENCHMARK = Benchmark(...)` and ends with

    if __name__ == "__main__":
        raise SystemExit(main(BENCHMARK))

Both arms get the same inputs, built once and touched before anything is measured. Times are the
minimum over interleaved repeats: noise only ever adds. Peaks are taken in a fresh process per arm,
as anonymous resident memory above the level reached with inputs and output in place.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xmodal.errors import BackendError

Number = float | int
Setting = Mapping[str, Any]

# A poll reads one small /proc file; twice a millisecond sees any buffer that costs time to fill.
_POLL_S = 0.0005
_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class Case:
    """One setting, ready to run.

    Attributes:
        ours: Runs our arm once; what it returns is dropped outside the clock.
        peer: Runs the peer's algorithm once on the same inputs.
        error: The benchmark's error figure (its module says which), after both arms have run.
        extra: Further figures of this setting, by name.
    """

    ours: Callable[[], object]
    peer: Callable[[], object]
    error: Callable[[], float]
    extra: Callable[[], dict[str, Number]] = field(default=dict)


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A named benchmark.

    Attributes:
        name: As in `python -m benchmarks.NAME`.
        build: Makes a `Case` from a setting's keywords; raises through `need` if a peer is absent.
        settings: Suffix of the JSON keys -> keywords of `build`. The first has the suffix "".
        warm: Keywords of a tiny case that both arms run before measuring, so that compilation
            and lazy imports are in neither time nor memory.
        extra: Figures that belong to no single setting.
        note: What a reader of the table must know, such as the layout of the inputs.
    """

    name: str
    build: Callable[..., Case]
    settings: Mapping[str, Setting]
    warm: Setting
    extra: Callable[[], dict[str, Number]] = field(default=dict)
    note: str = ""


def need(package: str, install: str) -> Any:
    """Import a peer's package.

    Raises:
        BackendError: If it is not installed; exit code 5.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise BackendError(
            f"benchmark peer {package!r}",
            wanted=f"the package {package}, which this benchmark compares with",
            got=str(error),
            fix=install,
        ) from error


def interleave(
    ours: Callable[[], object], peer: Callable[[], object], repeats: int = 5
) -> tuple[float, float]:
    """Minimum seconds of each arm over alternating runs."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for arm, log in zip((ours, peer), times, strict=True):
            gc.collect()
            start = time.perf_counter()
            result = arm()
            log.append(time.perf_counter() - start)
            del result
    return min(times[0]), min(times[1])


def peak_mb(module: str, arm: str, setting: Setting) -> float:
    """Extra anonymous memory of one arm, megabytes, measured from outside a fresh process.

    Args:
        module: Module that holds `BENCHMARK`.
        arm: `ours` or `peer`.
        setting: Keywords of `build`.
    """
    command = [sys.executable, "-m", "benchmarks.harness", module, arm, json.dumps(setting)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        if child.stdout.readline().strip() != "ready":
            child.wait()
            raise RuntimeError(f"{module} {arm} failed in its own process, see its message above")
        level = peak = _anonymous_kb(child.pid)
        child.stdin.write("go\n")
        child.stdin.flush()
        while True:
            now = _anonymous_kb(child.pid)
            if now < 0:  # gone, or a zombie: zombies have no memory to report
                break
            peak = max(peak, now)
            time.sleep(_POLL_S)
        if child.wait() != 0:
            raise RuntimeError(f"{module} {arm} failed in its own process, see its message above")
    return (peak - level) / 1024


def main(benchmark: Benchmark, argv: list[str] | None = None) -> int:
    """Run a benchmark from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{benchmark.name}")
    parser.add_argument("--json", action="store_true", help="print one JSON line, nothing else")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs per arm (at least 5)")
    options = parser.parse_args(argv)
    try:
        figures = run(benchmark, repeats=max(5, options.repeats))
    except BackendError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps(figures) if options.json else _table(benchmark, figures))
    return 0


def run(benchmark: Benchmark, *, repeats: int = 5) -> dict[str, Any]:
    """All figures of a benchmark, keyed as in its JSON line."""
    warm = benchmark.build(**benchmark.warm)
    warm.ours()
    warm.peer()
    figures: dict[str, Any] = {"name": benchmark.name}
    module = f"benchmarks.{benchmark.name}"
    for suffix, setting in benchmark.settings.items():
        # Memory first: this process then holds no inputs beside those of the children.
        ours_peak = peak_mb(module, "ours", setting)
        peer_peak = peak_mb(module, "peer", setting)
        case = benchmark.build(**setting)
        ours_s, peer_s = interleave(case.ours, case.peer, repeats)
        found: dict[str, Number] = {
            "ours_s": ours_s,
            "peer_s": peer_s,
            "ratio": peer_s / ours_s,
            "ours_peak_mb": ours_peak,
            "peer_peak_mb": peer_peak,
            # An arm that allocates nothing measurable still divides.
            "peak_fraction": ours_peak / max(peer_peak, 1e-3),
            "error": case.error(),
            **case.extra(),
        }
        figures |= {f"{key}{suffix}": _round(value) for key, value in found.items()}
        del case
        gc.collect()
    figures |= {key: _round(value) for key, value in benchmark.extra().items()}
    return figures


def _round(value: Number) -> Number:
    return value if isinstance(value, int) else float(f"{value:.5g}")


def _table(benchmark: Benchmark, figures: Mapping[str, Any]) -> str:
    lines = [f"{benchmark.name}" + (f"  ({benchmark.note})" if benchmark.note else "")]
    width = max(len(key) for key in figures)
    lines += [f"  {key:<{width}}  {value}" for key, value in figures.items() if key != "name"]
    return "\n".join(lines)


def _anonymous_kb(pid: int) -> int:
    """Anonymous resident memory of a process in kB; -1 once it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return -1
    for line in status.splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    return -1


def _child(module: str, arm: str, setting: str) -> int:
    """Body of the fresh process: build, report ready, run one arm once on command."""
    benchmark: Benchmark = importlib.import_module(module).BENCHMARK
    warm = benchmark.build(**benchmark.warm)
    getattr(warm, arm)()
    del warm
    case = benchmark.build(**json.loads(setting))
    gc.collect()
    print("ready", flush=True)
    sys.stdin.readline()
    result = getattr(case, arm)()
    del result
    return 0


if __name__ == "__main__":
    raise SystemExit(_child(*sys.argv[1:4]))
