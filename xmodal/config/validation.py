"""Plain data to typed settings: a frozen dataclass from a mapping, every mistake with its line.

Pydantic checks the types; this module adds what it cannot know: the line, the nearest valid key,
and unknown keys of plain dataclasses at any depth.
"""

from __future__ import annotations

import functools
import json
import types
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from xmodal.config.problems import Loc, Problem, one_of, show, suggest
from xmodal.config.reader import Document

Settings = TypeVar("Settings")

_CODE_KEYS = ("_target_", "_partial_", "class", "class_path", "init_args", "type", "target")
_WANTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list: [a, b]",
    "tuple_type": "a list: [a, b]",
    "dict_type": "a mapping: {key: value}",
    "mapping_type": "a mapping: {key: value}",
    "dataclass_type": "a mapping: {key: value}",
    "dataclass_exact_type": "a mapping: {key: value}",
    "none_required": "null",
}
_LIMITS = {
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "multiple_of": "a multiple of {multiple_of}",
    "too_short": "at least {min_length} entries",
    "too_long": "at most {max_length} entries",
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
    "string_pattern_mismatch": "text of the form {pattern}",
}


@functools.cache
def adapter(cls: Any) -> Any:
    """The pydantic `TypeAdapter` of a settings type, built once."""
    return TypeAdapter(cls)


def build(
    cls: type[Settings], data: Any, document: Document, loc: Loc, problems: list[Problem]
) -> Settings | None:
    """Make `cls` from the mapping at `loc`; on any mistake, note it and return None.

    Args:
        cls: A dataclass; its fields are the keys.
        data: What stands at `loc`.
        document: The file, for lines.
        loc: Where `data` stands.
        problems: Grows by one entry for each mistake.
    """
    before = len(problems)
    if not isinstance(data, dict):
        keys = ", ".join(f.name for f in fields(cast("Any", cls)) if f.init)
        problems.append(
            Problem(
                loc=loc,
                line=document.line(loc),
                wanted=f"a mapping with the keys {keys}",
                got=show(data),
                fix="write {key: value, ...}",
            )
        )
        return None
    problems.extend(_unknown_keys(cls, cast("dict[str, Any]", data), document, loc))
    built: Settings | None = None
    try:
        # through JSON: its strict mode takes a list for a tuple, yet no "1" for 1
        built = adapter(cls).validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        problems.extend(_translate(error, data, document, loc))
    return built if len(problems) == before else None


def dump(settings: Any) -> dict[str, Any]:
    """The plain data that `build` makes the same settings from."""
    return cast("dict[str, Any]", adapter(type(settings)).dump_python(settings, mode="json"))


def _dataclasses_in(hint: Any) -> Iterator[Any]:
    """Dataclasses that a value of this type may be, looking through unions and containers."""
    if isinstance(hint, type) and is_dataclass(hint):
        yield hint
    elif get_origin(hint) in (Union, types.UnionType):
        for option in get_args(hint):
            yield from _dataclasses_in(option)
    elif hasattr(hint, "__metadata__") and not any(
        hasattr(note, "__get_pydantic_core_schema__") for note in hint.__metadata__
    ):
        yield from _dataclasses_in(get_args(hint)[0])


def _unknown_keys(
    cls: Any, data: Mapping[str, Any], document: Document, loc: Loc
) -> Iterator[Problem]:
    known = [f.name for f in fields(cls) if f.init]
    hints = get_type_hints(cls, include_extras=True)
    for key, value in data.items():
        if key not in known:
            otherwise = "remove it"
            if key in _CODE_KEYS:
                otherwise = "remove it; a config names ops by `op:` and never code"
            yield Problem(
                loc=(*loc, key),
                line=document.line((*loc, key)),
                wanted=one_of(known),
                got=f"the unknown key `{key}`",
                fix=otherwise if key in _CODE_KEYS else suggest(key, known, otherwise),
            )
        elif isinstance(value, dict):
            options = list(_dataclasses_in(hints[key]))
            if options:
                inner = cast("dict[str, Any]", value)
                yield from _unknown_keys(_likeliest(options, inner), inner, document, (*loc, key))
        elif isinstance(value, list):
            options = [c for arg in get_args(hints[key]) for c in _dataclasses_in(arg)]
            for index, item in enumerate(cast("list[Any]", value)):
                if options and isinstance(item, dict):
                    inner = cast("dict[str, Any]", item)
                    place = (*loc, key, index)
                    yield from _unknown_keys(_likeliest(options, inner), inner, document, place)


def _likeliest(options: list[Any], data: Mapping[str, Any]) -> Any:
    """The dataclass of a union that shares the most keys with the data."""
    return max(options, key=lambda c: sum(f.name in data for f in fields(c)))


def _translate(
    error: ValidationError, data: Any, document: Document, loc: Loc
) -> Iterator[Problem]:
    grouped: dict[Loc, list[Mapping[str, Any]]] = {}
    for item in _likeliest_members(error, data):
        grouped.setdefault(_place(item, data)[0], []).append(item)
    for place, items in grouped.items():
        yield _problem(items, _at(data, place), document, (*loc, *place))


def _likeliest_members(error: ValidationError, data: Any) -> Iterator[Mapping[str, Any]]:
    """Errors without those of members of a union that a mapping was hardly meant to be."""
    items = [cast("Mapping[str, Any]", item) for item in error.errors(include_url=False)]
    members: dict[tuple[Loc, str], list[str]] = {}
    for item in items:
        place, member = _place(item, data)[1:]
        members.setdefault((place, member), []).append(item["type"])
    for item in items:
        place, member = _place(item, data)[1:]
        rivals = {m: kinds for (p, m), kinds in members.items() if p == place and m}
        if member and isinstance(_at(data, place), dict) and len(rivals) > 1:
            # what asks for the fewest further keys; a scalar asks for none, yet is no mapping
            missing = {
                m: sum(k.startswith("missing") for k in kinds)
                for m, kinds in rivals.items()
                if not any(k.endswith("_type") for k in kinds)
            }
            if missing and member != min(missing, key=lambda m: missing[m]):
                continue
        yield item


def _place(item: Mapping[str, Any], data: Any) -> tuple[Loc, Loc, str]:
    """Where an error is: the keys of the file, then the last union on the way and its member.

    Pydantic's location also has the names of the members of unions; the file does not.
    """
    loc: tuple[int | str, ...] = item["loc"]
    place: list[int | str] = []
    union: Loc = ()
    member = ""
    for index, part in enumerate(loc):
        if isinstance(data, dict) and part in data:
            data = cast("dict[Any, Any]", data)[part]
        elif isinstance(data, list) and isinstance(part, int):
            data = cast("list[Any]", data)[part]
        elif not (index == len(loc) - 1 and item["type"].startswith("missing")):
            union, member = tuple(place), str(part)
            continue
        place.append(part)
    return tuple(place), union, member


def _at(data: Any, place: Loc) -> Any:
    for part in place:
        data = cast("dict[Any, Any]", data).get(part) if isinstance(data, dict) else data[part]
    return data


def _problem(items: list[Mapping[str, Any]], value: Any, document: Document, loc: Loc) -> Problem:
    line = document.line(loc)
    name = str(loc[-1]) if loc else "it"
    if items[0]["type"].startswith("missing"):
        return Problem(
            loc=loc,
            line=line,
            wanted=f"a value for `{name}`",
            got="nothing",
            fix=f"add `{name}: ...`",
        )
    wanted = " or ".join(dict.fromkeys(_wanted(item) for item in items))
    return Problem(loc=loc, line=line, wanted=wanted, got=show(value), fix=_fix(items, value))


def _wanted(item: Mapping[str, Any]) -> str:
    kind, context = item["type"], item.get("ctx", {})
    if kind in _WANTED:
        return _WANTED[kind]
    if kind in _LIMITS:
        return _LIMITS[kind].format(**context)
    if kind in ("literal_error", "enum"):
        return one_of(_literals(item))
    if kind in ("value_error", "assertion_error"):
        return str(context.get("error", item["msg"]))
    return str(item["msg"])


def _literals(item: Mapping[str, Any]) -> list[str]:
    expected = str(item.get("ctx", {}).get("expected", ""))
    parts = [part.strip(" '") for part in expected.replace(" or ", ", ").split(",")]
    return [{"True": "true", "False": "false"}.get(part, part) for part in parts if part]


def _fix(items: list[Mapping[str, Any]], value: Any) -> str:
    kinds = {item["type"] for item in items}
    if "literal_error" in kinds or "enum" in kinds:
        options = [name for item in items for name in _literals(item)]
        return (
            suggest(value, options, "write one of them")
            if len(options) > 1
            else (f"write {options[0]}")
        )
    if "bool_type" in kinds and str(value).lower() in ("yes", "no", "on", "off", "y", "n"):
        return f"write {'true' if str(value).lower() in ('yes', 'on', 'y') else 'false'}"
    if isinstance(value, str) and kinds & {"float_type", "int_type"}:
        return "write the number without quotes or unit"
    if value is None:
        return "write a value, or drop the key"
    return "change the value"
