"""`log.jsonl` of a run, the clock and the peak memory that it reports."""

from __future__ import annotations

import json
import resource
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


def peak_memory_mb() -> float:
    """Largest resident set of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@dataclass
class RunLog:
    """Appends one JSON object per line; times are seconds since the log was opened."""

    path: Path
    began: float = field(default_factory=time.monotonic)

    def write(self, event: str, **record: Any) -> None:
        """Append an event."""
        line = {"event": event, "t_s": round(self.elapsed_s, 3), **record}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, default=str) + "\n")

    @property
    def elapsed_s(self) -> float:
        """Seconds since the log was opened."""
        return time.monotonic() - self.began
