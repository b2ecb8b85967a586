"""YAML in and out: a strict reader that knows the line of every key, and a plain writer.

The reader takes the part of YAML 1.2 that configuration needs: mappings, lists, and scalars where
only `true` and `false` are booleans, `1e-3` is a number and `no`, `on` or a date stay text. Tags,
anchors, aliases, merge keys, several documents and `${...}` are refused, so a file can neither
run code nor grow when it is read nor mean something else on another machine.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from xmodal.config.problems import ConfigReportError, Loc, Problem, show
from xmodal.errors import ConfigError

# A run file over a thousand scenes is some 100 kB; beyond this it is not a config file.
MAX_BYTES = 1 << 20
MAX_NODES = 10_000  # keeps the slowest accepted file well under a second
MAX_DEPTH = 24  # a run with an inline graph needs 6

_LOADER = cast("type[yaml.SafeLoader]", getattr(yaml, "CSafeLoader", yaml.SafeLoader))
_INT = re.compile(r"[-+]?(0|[1-9][0-9]{0,63})")
_RADIX = re.compile(r"0o[0-7]{1,32}|0x[0-9a-fA-F]{1,32}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]{1,64}|[0-9]{1,64}(\.[0-9]{0,64})?)([eE][-+]?[0-9]{1,9})?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")
_EXPANSION = re.compile(r"\$(\{|\(|[A-Za-z_])")
_WORDS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NULLS = ("", "~", "null", "Null", "NULL")


@dataclass(frozen=True, kw_only=True)
class Document:
    """A parsed file: plain data, the line of every key and value, and what was already wrong.

    Attributes:
        source: Path as the user gave it, for messages.
        data: Dicts with text keys, lists, text, numbers, booleans, None.
        lines: Line (from 1) of the key or list entry at each location.
        problems: Mistakes that left the rest readable; they belong into the file's one report.
    """

    source: str
    data: Any
    lines: Mapping[Loc, int]
    problems: tuple[Problem, ...] = ()

    def line(self, loc: Loc) -> int:
        """Line of a key, or of the nearest key around it that exists."""
        while loc not in self.lines and loc:
            loc = loc[:-1]
        return self.lines.get(loc, 1)


def read_yaml(path: str | Path) -> Document:
    """Read a config file.

    Args:
        path: The file; UTF-8, with or without a byte order mark, at most `MAX_BYTES`.

    Raises:
        ConfigError: If there is no such file, or it is not YAML at all.
    """
    source, file = str(path), Path(path)
    if not file.is_file():
        folder = file.is_dir()
        raise ConfigError(
            source,
            wanted="a YAML file",
            got="a folder" if folder else "no such file",
            fix="give the path of a graph or run file, such as configs/graphs/kitchen.yaml",
        )
    try:
        size = file.stat().st_size
        raw = b"" if size > MAX_BYTES else file.read_bytes()
    except OSError as error:
        raise ConfigError(
            source, wanted="a readable file", got=str(error), fix="check its permissions"
        ) from error
    if size > MAX_BYTES:
        raise ConfigError(
            source,
            wanted=f"a config file of at most {MAX_BYTES} bytes",
            got=f"{size} bytes",
            fix="check that this is the file you meant; data belongs in data files",
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{source}, byte {error.start}",
            wanted="UTF-8 text",
            got=f"byte 0x{raw[error.start]:02x}",
            fix="save the file as UTF-8",
        ) from error
    return parse_yaml(text, source)


def parse_yaml(text: str, source: str) -> Document:
    """Parse the text of a config file; `source` is its name in messages.

    Raises:
        ConfigError: If the text is not YAML, or nests or grows beyond any config file.
    """
    tabs = _tab_problems(text)
    builder = _Builder(source)
    try:
        data = builder.document(yaml.parse(text, Loader=_LOADER))
    except yaml.YAMLError as error:
        raise ConfigReportError(source, tabs or [_syntax_problem(error, text)]) from error
    return Document(
        source=source, data=data, lines=builder.lines, problems=(*builder.problems, *tabs)
    )


def _tab_problems(text: str) -> list[Problem]:
    return [
        Problem(
            loc=(),
            line=number,
            wanted="spaces for indentation",
            got="a tab",
            fix="replace the tab by two spaces per level",
        )
        for number, line in enumerate(text.splitlines(), 1)
        if "\t" in line[: len(line) - len(line.lstrip())] and line.strip()
    ]


def _syntax_problem(error: yaml.YAMLError, text: str) -> Problem:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        lines = text.splitlines()
        line = lines[mark.line].strip() if mark.line < len(lines) else "the end of the file"
        got = f"{error.problem} at column {mark.column + 1}: {line[:60]}"
        number = mark.line + 1
    else:
        position = getattr(error, "position", None)
        number = 1 if not isinstance(position, int) else text[:position].count("\n") + 1
        got = str(getattr(error, "reason", error)).splitlines()[0]
    return Problem(
        loc=(),
        line=number,
        wanted="YAML: `key: value` lines, indented with spaces, brackets and quotes closed",
        got=got,
        fix="correct this line or the one above it",
    )


def _line(event: yaml.Event) -> int:
    return 1 if event.start_mark is None else event.start_mark.line + 1


class _Builder:
    """Builds plain data from YAML events, noting lines and refusing what a config never needs."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.lines: dict[Loc, int] = {}
        self.problems: list[Problem] = []
        self._nodes = 0

    def document(self, events: Iterator[yaml.Event]) -> Any:
        data: Any = None
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                self._directives(event)
            elif isinstance(event, yaml.NodeEvent):
                value = self._node(event, events, ())
                data = value if documents == 1 else data
                if documents == 2:
                    self._note(event, (), "one document", "a second one after `---`", "split it")
        return data

    def _directives(self, event: yaml.DocumentStartEvent) -> None:
        if event.tags:
            self._note(event, (), "no directives", "a %TAG line", "remove it")

    def _note(self, event: yaml.Event, loc: Loc, wanted: str, got: str, fix: str) -> None:
        line = _line(event)
        self.problems.append(Problem(loc=loc, line=line, wanted=wanted, got=got, fix=fix))

    def _refuse(self, event: yaml.Event, loc: Loc, wanted: str, got: str, fix: str) -> None:
        self._note(event, loc, wanted, got, fix)
        raise ConfigReportError(self.source, self.problems)

    def _node(self, event: yaml.Event, events: Iterator[yaml.Event], loc: Loc) -> Any:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            wanted = f"at most {MAX_NODES} values"
            self._refuse(event, loc[:1], wanted, "more", "check that this is a config file")
        if len(loc) > MAX_DEPTH:
            wanted = f"at most {MAX_DEPTH} levels"
            self._refuse(event, loc[:1], wanted, "deeper nesting", "flatten it, or close a bracket")
        self.lines.setdefault(loc, _line(event))
        if isinstance(event, yaml.AliasEvent):
            self._note(event, loc, "a value", f"the alias *{event.anchor}", "write the value out")
            return None
        self._refuse_tag_and_anchor(event, loc)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(events, loc)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(events, loc)
        return self._scalar(cast("yaml.ScalarEvent", event), loc)

    def _refuse_tag_and_anchor(self, event: Any, loc: Loc) -> None:
        if event.anchor is not None:
            self._note(event, loc, "a value", f"the anchor &{event.anchor}", "remove the anchor")
        # `!` alone is what the parser gives some quoted scalars; it says nothing
        if event.tag not in (None, "!"):
            fix = "remove the tag; a config holds plain values only"
            self._note(event, loc, "a value", f"the tag {event.tag}", fix)

    def _sequence(self, events: Iterator[yaml.Event], loc: Loc) -> list[Any]:
        items: list[Any] = []
        for event in events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            items.append(self._node(event, events, (*loc, len(items))))
        return items

    def _mapping(self, events: Iterator[yaml.Event], loc: Loc) -> dict[str, Any]:
        items: dict[str, Any] = {}
        for event in events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            key = self._key(event, events, loc)
            place = (*loc, key)
            line = _line(event)
            if key in items:
                got = f"the key again; it was set on line {self.lines[place]}"
                fix = "keep one of the two; the later one would silently win elsewhere"
                self._note(event, place, f"`{key}` once", got, fix)
            else:
                self.lines[place] = line
            value = self._node(next(events), events, place)
            items.setdefault(key, value)
        return items

    def _key(self, event: yaml.Event, events: Iterator[yaml.Event], loc: Loc) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            self._note(event, loc, "a name as key", "a list, mapping or alias", "write a name")
            self._node(event, events, (*loc, "?"))
            return "?"
        self._refuse_tag_and_anchor(event, loc)
        key = event.value
        if key == "<<" and event.implicit[0]:
            fix = "write the keys out; merging is not part of a config"
            self._note(event, (*loc, key), "a name as key", "the merge key <<", fix)
        elif event.implicit[0] and not isinstance(resolve(key), str):
            got = f"`{key}`, which YAML reads as {type(resolve(key)).__name__}"
            self._note(event, (*loc, key), "a name as key", got, f'write "{key}" in quotes')
        return key

    def _scalar(self, event: yaml.ScalarEvent, loc: Loc) -> Any:
        text = event.value
        if _EXPANSION.search(text):
            fix = "write the value itself; variables of the environment are never expanded"
            self._note(event, loc, "a plain value", show(text), fix)
        if not event.implicit[0]:
            return text
        value = resolve(text)
        if _NOT_FINITE.fullmatch(text) or (isinstance(value, float) and not math.isfinite(value)):
            self._note(event, loc, "a finite number", text, "write a number, or drop the key")
            return None
        if _LEADING_ZERO.fullmatch(text):
            fix = f"write {text.lstrip('+-0') or '0'}, or 0o{text.lstrip('+-0')} for octal"
            self._note(event, loc, "a number without leading zeros", text, fix)
            return int(text)
        return value


def resolve(text: str) -> bool | int | float | str | None:
    """The value of an unquoted YAML scalar (YAML 1.2 core, plus `1e-3` as a number)."""
    if text in _NULLS:
        return None
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _RADIX.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text) and not _LEADING_ZERO.fullmatch(text):
        return float(text)
    return text


_PLAIN = re.compile(r"[A-Za-z_./][\w./+-]*( [\w./+-]+)*", re.ASCII)
# Readers of YAML 1.1 take these for booleans; in quotes they are text to everyone.
_OLD_WORDS = frozenset({"y", "n", "yes", "no", "on", "off"})


def scalar_text(value: Any) -> str:
    """One value as YAML on one line; reading it back gives the same value and type."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) and isinstance(resolve(value), str)
        other = _NOT_FINITE.fullmatch(value) or value.lower() in _OLD_WORDS
        return value if plain and not other else _quoted(value)
    if isinstance(value, Mapping):
        pairs = cast("Mapping[str, Any]", value).items()
        return "{" + ", ".join(f"{_key_text(k)}: {scalar_text(v)}" for k, v in pairs) + "}"
    return "[" + ", ".join(scalar_text(item) for item in value) + "]"


def _key_text(key: str) -> str:
    """A key inside braces; `on` is a field of ours, so it stays bare."""
    return key if key == "on" else scalar_text(key)


def _quoted(text: str) -> str:
    out: list[str] = []
    for char in text:
        code = ord(char)
        if char in '"\\':
            out.append("\\" + char)
        elif 0x20 <= code < 0x7F:
            out.append(char)
        else:
            out.append(f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return '"' + "".join(out) + '"'


def write_yaml(data: Mapping[str, Any], *, block_levels: int = 2) -> str:
    """Data as YAML text: block style for the outer levels, one line for each thing inside.

    Args:
        data: Text keys; dicts, lists, text, numbers, booleans and None inside.
        block_levels: How many levels are written as indented blocks.
    """
    return "\n".join(_block(data, block_levels, "")) + "\n"


def _block(data: Mapping[str, Any], levels: int, indent: str) -> Iterator[str]:
    for key, value in data.items():
        name = key if re.fullmatch(r"\w([\w, >-]*\w)?", key, re.ASCII) else _quoted(key)
        name = name if isinstance(resolve(name), str) else _quoted(key)
        if isinstance(value, Mapping) and value and levels > 1:
            yield f"{indent}{name}:"
            yield from _block(cast("Mapping[str, Any]", value), levels - 1, indent + "  ")
        else:
            yield f"{indent}{name}: {scalar_text(value)}"
