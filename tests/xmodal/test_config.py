from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmodal.config.reader import parse_yaml, read_yaml, resolve, scalar_text, write_yaml

LITERALS = [
    ("1e-3", 1e-3),
    ("1E+2", 100.0),
    ("-.5", -0.5),
    ("3.", 3.0),
    ("0", 0),
    ("-17", -17),
    ("0x1F", 31),
    ("0o17", 15),
    ("true", True),
    ("False", False),
    ("~", None),
    ("null", None),
    ("no", "no"),
    ("Yes", "Yes"),
    ("on", "on"),
    ("off", "off"),
    ("y", "y"),
    ("1_000", "1_000"),
    ("1:30", "1:30"),
    ("2020-01-01", "2020-01-01"),
    ("1.2.3", "1.2.3"),
    ("0b11", "0b11"),
    ('"1"', "1"),
    ("'true'", "true"),
    ("!", "!"),
]


@pytest.mark.parametrize(("text", "value"), LITERALS[:-1])
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    read = parse_yaml(f"key: {text}\n", "f.yaml")
    assert read.data == {"key": value}
    assert type(read.data["key"]) is type(value)
    assert not read.problems


def test_every_key_and_entry_knows_its_line() -> None:
    document = parse_yaml("a: 1\nb:\n  c: [x,\n      y]\n  d: {e: 2}\n", "f.yaml")
    assert document.lines[("a",)] == 1
    assert document.lines[("b",)] == 2
    assert document.lines[("b", "c")] == 3
    assert document.lines[("b", "c", 1)] == 4
    assert document.lines[("b", "d", "e")] == 5
    assert document.line(("b", "d", "gone", "deeper")) == 5


def test_a_byte_order_mark_windows_lines_and_comments_are_fine(tmp_path: Any) -> None:
    file = tmp_path / "f.yaml"
    file.write_bytes("\ufeff# comment\r\na: 1\r\n\r\nb: ü # more\r\n".encode())
    document = read_yaml(file)
    assert document.data == {"a": 1, "b": "ü"}
    assert document.lines[("b",)] == 4


def test_a_tab_between_values_is_fine() -> None:
    assert parse_yaml("a:\t1\nb: [1,\t2]\n", "f.yaml").data == {"a": 1, "b": [1, 2]}


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "~"])
def test_an_empty_file_is_nothing(text: str) -> None:
    assert parse_yaml(text, "f.yaml").data is None


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12).filter(lambda text: "$" not in text)
    | st.sampled_from(["no", "1e-3", "012", ".inf", "~", "null", "a: b", "- x", "on", "#", "é", ""])
)
DATA = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8).filter(lambda t: "$" not in t), inner, max_size=3)
    ),
    max_leaves=10,
)


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.text(min_size=1, max_size=8).filter(lambda t: "$" not in t), DATA))
def test_what_is_written_reads_back_the_same(data: dict[str, Any]) -> None:
    for levels in (1, 3):
        document = parse_yaml(write_yaml(data, block_levels=levels), "f.yaml")
        assert not document.problems
        assert (document.data or {}) == data
        assert repr(document.data or {}) == repr(data)  # 1 is not 1.0 and not True


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=40))
def test_any_text_parses_or_is_refused_in_our_words(text: str) -> None:
    from xmodal.errors import ConfigError

    try:
        document = parse_yaml(text, "f.yaml")
    except ConfigError as error:
        assert error.exit_code == 4
    else:
        assert all(problem.line for problem in document.problems)


@given(st.floats())
@settings(deadline=None)
def test_numbers_resolve_to_themselves(value: float) -> None:
    if math.isfinite(value):
        assert resolve(scalar_text(value)) == value
