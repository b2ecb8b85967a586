"""Bad YAML: refused with the line, quickly and in little memory, and without running anything."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmodal.config.problems import ConfigReportError
from xmodal.config.reader import MAX_BYTES, parse_yaml, read_yaml
from xmodal.errors import ConfigError
from xmodal.graph import Graph, load_graph

# name: (text, line, wanted, got, fix); these are noted while the rest is still checked
NOTED = {
    "duplicate key": ("a: 1\nb: 2\na: 3\n", 3, "`a` once", "set on line 1", "keep one"),
    "duplicate in braces": ("x: {a: 1, b: 2,\n  a: 3}\n", 2, "`a` once", "line 1", "keep one"),
    "python object": ("a: !!python/object/apply:os.system [ls]\n", 1, "a value", "os.sys", "tag"),
    "python name": ("a: !!python/name:os.system\n", 1, "a value", "python/name", "remove the tag"),
    "own tag": ("a: 1\nb: !env HOME\n", 2, "a value", "!env", "remove the tag"),
    "standard tag": ("a: !!str 1\n", 1, "a value", "yaml.org,2002:str", "remove the tag"),
    "tagged key": ("!!str a: 1\n", 1, "a value", "yaml.org,2002:str", "remove the tag"),
    "anchor": ("a: &here 1\n", 1, "a value", "anchor &here", "remove the anchor"),
    "alias": ("a: &here 1\nb: *here\n", 2, "a value", "alias *here", "write the value out"),
    "merge key": ("a:\n  <<: {b: 1}\n", 2, "a name as key", "merge key", "write the keys out"),
    "number as key": ("a: 1\n3: 4\n", 2, "a name as key", "reads as int", '"3" in quotes'),
    "boolean as key": ("true: 4\n", 1, "a name as key", "reads as bool", "in quotes"),
    "null as key": ("~: 4\n", 1, "a name as key", "reads as NoneType", "in quotes"),
    "list as key": ("? [a, b]\n: 1\n", 1, "a name as key", "a list", "write a name"),
    "leading zero": ("a: 012\n", 1, "leading zeros", "012", "write 12, or 0o12"),
    "not a number": ("a: .nan\n", 1, "a finite number", ".nan", "write a number"),
    "infinity": ("a: -.inf\n", 1, "a finite number", "-.inf", "write a number"),
    "too large": ("a: 1e999\n", 1, "a finite number", "1e999", "write a number"),
    "braces of the shell": ("a: ${HOME}/x\n", 1, "a plain value", "${HOME}", "never expanded"),
    "name of the shell": ("a: $HOME/x\n", 1, "a plain value", "$HOME", "never expanded"),
    "command of the shell": ("a: '$(ls)'\n", 1, "a plain value", "$(ls)", "never expanded"),
    "two documents": ("a: 1\n---\nb: 1\n", 3, "one document", "second", "split"),
}  # fmt: skip

# name: (text, line, got); nothing can be read after these
FATAL = {
    "tab before a comment": ("a: 1\n\t# comment\n", 2, "a tab"),
    "tab as indentation": ("a:\n\tb: 1\n", 2, "a tab"),
    "open bracket": ("a: [1, 2\nb: 3\n", 2, "','"),
    "open quote": ('a: "x\nb: 3\n', 3, "end of stream"),
    "bad indentation": ("a: 1\n  b: 2\n", 2, "mapping values"),
    "no space after colon": ("a: 1\nb:2\nc: 3\n", 3, ""),
    "unknown version": ("%YAML 9.9\n---\na: 1\n", 1, "incompatible"),
    "control character": ("a: 1\nb: \x00\n", 2, "control characters"),
    "unprintable": ("a: \x08\n", 1, "control characters"),
    "at sign": ("a: @x\n", 1, "cannot start any token"),
    "deep list": ("a: " + "[" * 100_000, 1, "deeper nesting"),
    "deep mapping": ("a: " + "{b: " * 5_000, 1, "deeper nesting"),
    "deep blocks": ("\n".join("  " * i + "a:" for i in range(200)), 26, "deeper nesting"),
    "many values": ("a: [" + "1," * 30_000 + "]", 1, "more"),
}


@pytest.mark.parametrize("name", NOTED)
def test_what_a_config_never_needs_is_noted_with_its_line(name: str) -> None:
    text, line, wanted, got, fix = NOTED[name]
    problems = parse_yaml(text, "f.yaml").problems
    assert any(
        p.line == line and wanted in p.wanted and got in p.got and fix in p.fix for p in problems
    ), problems


@pytest.mark.parametrize("name", NOTED)
def test_it_ends_the_reading_of_a_graph(name: str, tmp_path: Path) -> None:
    file = tmp_path / "g.yaml"
    file.write_text(NOTED[name][0])
    with pytest.raises(ConfigReportError) as caught:
        load_graph(file)
    assert caught.value.exit_code == 4
    assert f"{file}:{NOTED[name][1]}, " in str(caught.value)


@pytest.mark.parametrize("name", FATAL)
def test_what_is_no_yaml_names_the_line(name: str) -> None:
    text, line, got = FATAL[name]
    began = time.process_time()
    with pytest.raises(ConfigReportError) as caught:
        parse_yaml(text, "f.yaml")
    assert time.process_time() - began < 1
    problem = caught.value.problems[0]
    assert (problem.line, caught.value.exit_code) == (line, 4)
    assert got in problem.got


def test_several_mistakes_of_the_reader_and_the_graph_are_one_report(tmp_path: Path) -> None:
    file = tmp_path / "g.yaml"
    file.write_text("name: &x one\nnodes:\n  a: {kind: image}\n  a: {kind: depth}\nencode: 3\n")
    with pytest.raises(ConfigReportError) as caught:
        load_graph(file)
    assert [p.line for p in caught.value.problems] == [1, 4, 5]


def test_a_billion_laughs_are_refused_at_once() -> None:
    levels = ["a0: &a0 [lol]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    began = time.process_time()
    document = parse_yaml("\n".join(levels), "f.yaml")
    assert time.process_time() - began < 1
    assert len(document.problems) >= 30


def test_a_large_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "large.yaml"
    file.write_bytes(b"a: [" + b"1, " * (10 << 20) + b"]")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    with pytest.raises(ConfigError) as caught:
        read_yaml(file)
    assert time.process_time() - began < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 20_000  # kB
    assert caught.value.exit_code == 4
    assert str(MAX_BYTES) in caught.value.wanted


@pytest.mark.parametrize(
    ("content", "got"),
    [
        ("a: 1".encode("utf-16"), "byte 0xff"),
        (b"a: caf\xe9\n", "byte 0xe9"),
        (b"\x80\x04\x95", "byte 0x80"),
    ],
)
def test_other_encodings_name_the_byte(content: bytes, got: str, tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="UTF-8") as caught:
        read_yaml(file)
    assert caught.value.got == got


@pytest.mark.parametrize(("name", "got"), [("gone.yaml", "no such file"), (".", "a folder")])
def test_a_missing_file_is_a_config_error(name: str, got: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_graph(tmp_path / name)
    assert (caught.value.exit_code, caught.value.got) == (4, got)


def test_a_pipe_is_no_config_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    with pytest.raises(ConfigError):
        read_yaml(pipe)


DOTTED = st.lists(
    st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True), min_size=2, max_size=4
).map(".".join)


@settings(deadline=None, max_examples=60)
@given(DOTTED, st.sampled_from(["op", "_target_", "type", "class_path", "op2"]))
def test_no_name_in_a_file_is_ever_imported(name: str, key: str) -> None:
    text = f"""\
name: x
nodes: {{cameras: {{kind: image}}, maps: {{kind: masks, channels: 1000}}}}
encode:
  cameras -> maps: {{op: embedded, {key if key != "op" else "grid"}: {name}}}
  maps -> maps2: {{op: {name}}}
"""
    with pytest.raises(ConfigReportError):
        Graph.from_yaml("name: x\nnodes: {a: {kind: image}}\nencode: {}\n")
    before = set(sys.modules)
    with pytest.raises(ConfigReportError):
        Graph.from_yaml(text)
    after = set(sys.modules)
    # ops of our own may load on the way to naming the nearest one; nothing else may
    assert {m for m in after - before if not m.startswith("xmodal.")} == set()


def test_the_command_prints_the_report_and_exits_4(tmp_path: Path) -> None:
    file = tmp_path / "g.yaml"
    file.write_text("name: x\nnodes: {a: {kind: imag}}\n")
    program = "from xmodal.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "check", str(file)], capture_output=True, text=True
    )
    assert done.returncode == 4, done.stderr
    assert "Found 1 error in" in done.stderr
    assert f"{file}:2, nodes > a > kind" in done.stderr
    assert "did you mean `image`?" in done.stderr
    assert "Traceback" not in done.stderr
