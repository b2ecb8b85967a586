"""`key=value` on the command line: scalars of a run file, by dotted key."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from xmodal.config.problems import Loc, Problem, show
from xmodal.config.reader import Document, resolve
from xmodal.errors import UsageError
from xmodal.graph.parts import split_arrow

COMMAND_LINE = 0  # the line of what came from there


@dataclass(frozen=True, kw_only=True)
class Override:
    """One `key=value`, with the value read as YAML reads it."""

    keys: tuple[str, ...]
    value: bool | int | float | str | None


def parse_overrides(texts: Sequence[str]) -> list[Override]:
    """Read `key=value` texts; a key is dotted, an arrow counts as one part.

    Raises:
        UsageError: If a text is not of that form.
    """
    overrides: list[Override] = []
    for text in texts:
        key, equals, value = text.partition("=")
        keys = tuple(part.strip() for part in key.split("."))
        if not equals or not all(keys):
            raise UsageError(
                f"override {text!r}",
                wanted="key=value with a dotted key",
                got="no key" if equals else "no `=`",
                fix="write for example optimiser.steps=100",
            )
        quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
        overrides.append(Override(keys=keys, value=value[1:-1] if quoted else resolve(value)))
    return overrides


def apply_overrides(
    document: Document, overrides: Sequence[Override]
) -> tuple[Document, list[Problem]]:
    """Put overrides into the data of a document; their types are checked with the rest."""
    if not overrides or not isinstance(document.data, dict):
        return document, []
    data = copy.deepcopy(cast("dict[str, Any]", document.data))
    lines, problems = dict(document.lines), list[Problem]()
    for override in overrides:
        problem = _put(data, override, lines)
        if problem is not None:
            problems.append(problem)
    return replace(document, data=data, lines=lines), problems


def _put(data: dict[str, Any], override: Override, lines: dict[Loc, int]) -> Problem | None:
    here, loc = data, cast("Loc", ())
    for key in override.keys[:-1]:
        name = _matching(here, key)
        loc = (*loc, name)
        if name not in here or here[name] is None:
            here[name] = {}
            lines[loc] = COMMAND_LINE
        if not isinstance(here[name], dict):
            return _refused(loc, "a section with keys of its own", here[name])
        here = cast("dict[str, Any]", here[name])
    name = _matching(here, override.keys[-1])
    loc = (*loc, name)
    if isinstance(here.get(name), (dict, list)):
        return _refused(loc, "a scalar to override", here[name])
    here[name] = override.value
    lines[loc] = COMMAND_LINE
    return None


def _matching(data: dict[str, Any], key: str) -> str:
    """The key as the file writes it: spaces in an arrow do not matter."""
    arrow = split_arrow(key)
    if arrow is None:
        return key
    return next((other for other in data if split_arrow(other) == arrow), key)


def _refused(loc: Loc, wanted: str, value: Any) -> Problem:
    fix = "edit the file; the command line changes scalars only"
    return Problem(loc=loc, line=COMMAND_LINE, wanted=wanted, got=show(value), fix=fix)
