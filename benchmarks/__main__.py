"""`python -m benchmarks [--json] [--record] [NAME ..]`: each benchmark in its own process."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence

from xmodal.errors import BackendError

NAMES = (
    "fusion",
    "projection",
    "sampling",
    "scatter",
    "voxelize",
    "slopes",
    "query",
    "splat_codes",
    "loss",
    "queue_loss",
    "sparse_conv",
    "splat_render",
    "splat_lift",
    "logmel",
    "clip_students",
)


def main() -> int:
    """Run the benchmarks one after the other; the exit code is the highest of theirs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"from {', '.join(NAMES)}")
    parser.add_argument("--json", action="store_true", help="one JSON line per benchmark")
    parser.add_argument(
        "--record", action="store_true", help="write results/speed.json; implies --json"
    )
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(NAMES))
    if unknown:
        parser.error(f"no benchmark named {', '.join(unknown)}; there are {', '.join(NAMES)}")
    if options.record:
        return _record(options.names or NAMES)
    worst = 0
    for name in options.names or NAMES:
        finished = subprocess.run(_command(name) + ["--json"] * options.json, check=False)
        worst = max(worst, finished.returncode)
    return worst


def _command(name: str) -> list[str]:
    return [sys.executable, "-m", f"benchmarks.{name}"]


def _record(names: Sequence[str]) -> int:
    """Run some; write what was measured unless a benchmark failed for more than want of a peer.

    Figures of the others stay if they were measured on the same day, and go otherwise: a record has
    one date and one set of versions.
    """
    from benchmarks.records import (  # torch: not beside benchmarks that run alone
        figures_of_today,
        write_figures,
    )

    codes: list[int] = []
    lines: list[str] = []
    for name in names:
        command = [*_command(name), "--json"]
        finished = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
        print(finished.stdout, end="", flush=True)
        codes.append(finished.returncode)
        lines += finished.stdout.splitlines()
    if set(codes) <= {0, BackendError.exit_code}:
        made = {figures["name"]: figures for figures in map(json.loads, lines)}
        known = figures_of_today("speed") | made
        ordered = [known[name] for name in NAMES if name in known]
        path = write_figures("speed", seed=0, figures=ordered)
        print(f"wrote {path}", file=sys.stderr)
    return max(codes)


if __name__ == "__main__":
    raise SystemExit(main())
