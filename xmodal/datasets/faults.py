"""Faults of one scene, collected so that the user sees all of them in one message."""

from __future__ import annotations

from pathlib import Path

from xmodal.errors import DataError

# A broken export of thousands of frames must not scroll the cause off the screen.
_SHOWN = 12


class Faults:
    """Collects what is wrong with a scene; `check` raises one error for all of it.

    Args:
        root: The scene folder. Paths below it are shown relative to it.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._faults: list[DataError] = []

    def add(self, where: Path | str, *, wanted: str, got: str, fix: str) -> None:
        """Note one fault in the four parts of an error."""
        self.add_error(DataError(self._short(where), wanted=wanted, got=got, fix=fix))

    def add_error(self, error: DataError) -> None:
        """Note a fault that came as an error."""
        error.where = self._short(error.where)
        self._faults.append(error)

    def check(self) -> None:
        """Raise one DataError if anything was noted, else do nothing.

        Raises:
            DataError: With every fault; the first ones in full, then a count.
        """
        if not self._faults:
            return
        first = self._faults[0]
        if len(self._faults) == 1:
            where = f"{self._root}: {first.where}"
            raise DataError(where, wanted=first.wanted, got=first.got, fix=first.fix)
        lines = [f"{f.where}: {f.got} (wanted {f.wanted})" for f in self._faults[:_SHOWN]]
        more = len(self._faults) - _SHOWN
        if more > 0:
            lines.append(f"and {more} more")
        fixes = list(dict.fromkeys(f.fix for f in self._faults))
        raise DataError(
            str(self._root),
            wanted="a consistent scene",
            got=f"{len(self._faults)} faults\n    " + "\n    ".join(lines),
            fix="; ".join(fixes[:4]),
        )

    def _short(self, where: Path | str) -> str:
        return str(where).removeprefix(f"{self._root}/")
