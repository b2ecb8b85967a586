"""`python -m benchmarks [--json] [NAME ..]`: every benchmark, each in its own process."""

from __future__ import annotations

import argparse
import subprocess
import sys

NAMES = ("fusion", "projection", "sampling", "scatter", "voxelize", "slopes")


def main() -> int:
    """Run the benchmarks one after the other; the exit code is the highest of theirs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"from {', '.join(NAMES)}")
    parser.add_argument("--json", action="store_true", help="one JSON line per benchmark")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(NAMES))
    if unknown:
        parser.error(f"no benchmark named {', '.join(unknown)}; there are {', '.join(NAMES)}")
    worst = 0
    for name in options.names or NAMES:
        command = [sys.executable, "-m", f"benchmarks.{name}"]
        finished = subprocess.run(command + ["--json"] * options.json, check=False)
        worst = max(worst, finished.returncode)
    return worst


if __name__ == "__main__":
    raise SystemExit(main())
