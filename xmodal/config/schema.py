"""JSON schemas of graph and run files, for completion and checks in editors."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from pydantic import TypeAdapter

from xmodal.atomic import write_json
from xmodal.config.runfile import RunFile
from xmodal.edges import VERBS, op_union
from xmodal.graph.parts import ARROW_PATTERN, GRAPH_NAME, NAME, Node

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_REF = "#/$defs/{model}"
# a pattern of JSON schema matches anywhere in the text unless it is anchored
_FULL = "^(?:{})$"


def graph_schema() -> dict[str, Any]:
    """The schema of a graph file, with all ops that are installed."""
    types = [("node", TypeAdapter(Node)), *((verb, TypeAdapter(op_union(verb))) for verb in VERBS)]
    inputs = [(name, "validation", adapter) for name, adapter in types]
    found, shared = TypeAdapter.json_schemas(cast("Any", inputs), ref_template=_REF)
    parts = {key[0]: schema for key, schema in found.items()}
    definitions = shared.get("$defs", {})
    _close(definitions)
    for definition in definitions.values():
        if "op" in definition.get("properties", {}):
            definition["required"] = sorted({"op", *definition.get("required", [])})
    properties: dict[str, Any] = {
        "name": {"type": "string", "pattern": _FULL.format(GRAPH_NAME.pattern)},
        "nodes": {
            "type": "object",
            "description": "Places where values are, by name.",
            "minProperties": 1,
            "propertyNames": {"pattern": _FULL.format(NAME.pattern)},
            "additionalProperties": parts["node"],
        },
    }
    texts = {
        "encode": "Networks: the frozen teachers, then the students.",
        "lift": "Geometry without weights.",
        "distill": "Losses, from a teacher's node to a student's.",
    }
    for verb in VERBS:
        properties[verb] = {
            "type": "object",
            "description": texts[verb],
            "propertyNames": {"pattern": _FULL.format(ARROW_PATTERN)},
            "additionalProperties": parts[verb],
        }
    return {
        "$schema": _DIALECT,
        "title": "xmodal graph",
        "type": "object",
        "properties": properties,
        "required": ["name", "nodes"],
        "additionalProperties": False,
        "$defs": definitions,
    }


def run_schema() -> dict[str, Any]:
    """The schema of a run file; the graph inline or the path of a graph file."""
    run = TypeAdapter(RunFile).json_schema(ref_template=_REF)
    graph = graph_schema()
    definitions: dict[str, Any] = run.pop("$defs", {})
    _close(definitions)
    definitions |= graph.pop("$defs")
    del graph["$schema"]
    run["properties"]["graph"] = {
        "anyOf": [graph, {"type": "string", "description": "Path of a graph file beside this one."}]
    }
    return {
        "$schema": _DIALECT,
        **run,
        "title": "xmodal run",
        "additionalProperties": False,
        "$defs": definitions,
    }


def _close(definitions: dict[str, Any]) -> None:
    """Unknown keys are errors everywhere; plain dataclasses do not say so by themselves."""
    for definition in definitions.values():
        if "properties" in definition:
            definition.setdefault("additionalProperties", False)


def write_schemas(folder: Path) -> list[Path]:
    """Write `graph.schema.json` and `run.schema.json` into a folder; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for name, schema in (("graph", graph_schema()), ("run", run_schema())):
        path = folder / f"{name}.schema.json"
        write_json(path, schema)
        written.append(path)
    return written
