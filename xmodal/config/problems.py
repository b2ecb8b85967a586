"""Mistakes in a config file: collected, then reported all at once with file and line."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from xmodal.errors import ConfigError

Loc = tuple[str | int, ...]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One mistake.

    Attributes:
        loc: Keys and list positions from the top of the file to the offending key.
        line: Line in the file, from 1; 0 for the command line, None for a graph made in Python.
        wanted: What was expected there.
        got: What came instead.
        fix: What to write.
    """

    loc: Loc
    line: int | None
    wanted: str
    got: str
    fix: str

    @property
    def key(self) -> str:
        """The offending key as people read it: `lift > maps, cloud -> lifted > op`."""
        return " > ".join(str(part) for part in self.loc) or "the file"


class ConfigReportError(ConfigError):
    """All mistakes of one file in one message (exit 4).

    The four parts of the base class describe the first mistake; the message has all of them.
    """

    def __init__(self, source: str, problems: Iterable[Problem]) -> None:
        self.source = source
        self.problems = tuple(sorted(problems, key=lambda p: (p.line or 0, p.key)))
        first = self.problems[0]
        super().__init__(_where(source, first), wanted=first.wanted, got=first.got, fix=first.fix)
        count = len(self.problems)
        head = f"Found {count} {'error' if count == 1 else 'errors'} in {source}"
        blocks = [
            f"{_where(source, p)}\n  wanted: {p.wanted}\n  got:    {p.got}\n  fix:    {p.fix}"
            for p in self.problems
        ]
        self.args = ("\n".join([head, *blocks]),)


def _where(source: str, problem: Problem) -> str:
    if problem.line == 0:
        return f"command line, {problem.key}"
    place = source if problem.line is None else f"{source}:{problem.line}"
    return f"{place}, {problem.key}"


def nearest(name: object, options: Iterable[str]) -> str | None:
    """The option most like a misspelt name, or None when nothing is near."""
    table = {option.lower(): option for option in options}
    found = difflib.get_close_matches(str(name).lower(), table, n=1, cutoff=0.5)
    return table[found[0]] if found else None


def suggest(name: object, options: Sequence[str], otherwise: str) -> str:
    """A line of advice: the nearest option if there is one, else what to do instead."""
    found = nearest(name, options)
    return f"did you mean `{found}`?" if found is not None else otherwise


def one_of(options: Iterable[str]) -> str:
    """`one of a, b, c` for a `wanted` line; long lists are cut, in the open."""
    names = list(options)
    if not names:
        return "nothing: there are none to choose from"
    shown = ", ".join(names[:16])
    more = f" and {len(names) - 16} more" if len(names) > 16 else ""
    return f"one of {shown}{more}" if len(names) > 1 else f"`{names[0]}`"


def show(value: object) -> str:
    """A short picture of a value for a `got` line, written as YAML would."""
    if value is None:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, str):
        text = f'text "{value}"'
    return text if len(text) <= 80 else text[:77] + "..."
