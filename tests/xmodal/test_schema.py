from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from xmodal.config.reader import read_yaml
from xmodal.config.runfile import load_run
from xmodal.config.schema import graph_schema, run_schema, write_schemas
from xmodal.edges import VERBS, op_names

ROOT = Path(__file__).parents[2]
GRAPHS = sorted((ROOT / "configs/graphs").glob("*.yaml"))
RUNS = sorted((ROOT / "configs/runs").glob("*.yaml"))


@pytest.mark.parametrize("schema", [graph_schema, run_schema])
def test_a_schema_is_a_schema(schema: Callable[[], dict[str, Any]]) -> None:
    Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize("file", GRAPHS, ids=lambda f: f.stem)
def test_every_graph_file_fits(file: Path) -> None:
    Draft202012Validator(graph_schema()).validate(read_yaml(file).data)


@pytest.mark.parametrize("file", RUNS, ids=lambda f: f.stem)
def test_every_run_file_fits_with_its_graph_beside_it_or_inline(file: Path) -> None:
    validator = Draft202012Validator(run_schema())
    validator.validate(read_yaml(file).data)
    validator.validate(json.loads(json.dumps(load_run(file).plain())))


def test_every_op_is_in_it_with_its_tag() -> None:
    definitions = graph_schema()["$defs"].values()
    tags = {d["properties"]["op"]["const"] for d in definitions if "op" in d["properties"]}
    assert tags == {name for verb in VERBS for name in op_names(verb)}


def kitchen() -> dict[str, Any]:
    return read_yaml(ROOT / "configs/graphs/kitchen.yaml").data


BREAK: dict[str, Callable[[dict[str, Any]], Any]] = {
    "unknown section": lambda g: g.update(distil={}),
    "no name": lambda g: g.pop("name"),
    "name is a path": lambda g: g.update(name="../x"),
    "no nodes": lambda g: g.update(nodes={}),
    "unknown kind": lambda g: g["nodes"].update(depth={"kind": "deph"}),
    "unknown node key": lambda g: g["nodes"].update(depth={"kind": "depth", "chanels": 1}),
    "no kind": lambda g: g["nodes"].update(depth={}),
    "channels is text": lambda g: g["nodes"].update(maps={"kind": "masks", "channels": "1000"}),
    "channels is zero": lambda g: g["nodes"].update(maps={"kind": "masks", "channels": 0}),
    "node name": lambda g: g["nodes"].update({"de-pth": {"kind": "depth"}}),
    "no arrow": lambda g: g["distill"].update(lifted={"op": "kl"}),
    "unknown op": lambda g: g["lift"].update({"a -> b": {"op": "pints"}}),
    "op of another verb": lambda g: g["lift"].update({"a -> b": {"op": "kl"}}),
    "no op": lambda g: g["lift"].update({"a -> b": {}}),
    "unknown setting": lambda g: g["distill"].update({"a -> b": {"op": "kl", "wait": 1}}),
    "setting as text": lambda g: g["distill"].update({"a -> b": {"op": "kl", "weight": ""}}),
    "unknown choice": lambda g: g["encode"].update({"a -> b": {"op": "sparse_unet", "size": "xl"}}),
    "teacher that trains": lambda g: g["encode"].update({"a -> b": {"op": "dino", "frozen": 0}}),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAK)
def test_an_editor_marks(name: str) -> None:
    graph = kitchen()
    BREAK[name](graph)
    assert not Draft202012Validator(graph_schema()).is_valid(graph)


@pytest.mark.parametrize(
    "part",
    [
        {"sed": 1},
        {"seed": -1},
        {"seed": "0"},
        {"data": {}},
        {"data": {"scene": []}},
        {"data": {"scene": "x", "voxel_m": 0}},
        {"optimiser": {"stpes": 1}},
        {"optimiser": {"augment": {"rotate_deg": 1}}},
        {"evaluation": {"tasks": ["localization"]}},
        {"graph": 3},
    ],
)
def test_an_editor_marks_in_a_run(part: dict[str, Any]) -> None:
    run = {"name": "x", "graph": "graph.yaml", "data": {"scene": "x"}}
    validator = Draft202012Validator(run_schema())
    assert validator.is_valid(run)
    assert not validator.is_valid(run | part)


def test_schemas_are_written_where_they_are_asked_for(tmp_path: Path) -> None:
    paths = write_schemas(tmp_path / "schema")
    assert [path.name for path in paths] == ["graph.schema.json", "run.schema.json"]
    assert json.loads(paths[0].read_text()) == graph_schema()
    assert json.loads(paths[1].read_text()) == run_schema()
