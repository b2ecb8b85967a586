"""Run files: a graph, the data, how to train, and what to measure."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from annotated_types import Ge
from pydantic import GetCoreSchemaHandler
from pydantic_core import core_schema

from xmodal.config.overrides import Override, apply_overrides, parse_overrides
from xmodal.config.problems import ConfigReportError, Loc, Problem, one_of, show, suggest
from xmodal.config.reader import Document, read_yaml, write_yaml
from xmodal.config.run_parts import (
    OF_FILMS,
    OF_RECORDINGS,
    OF_SCENES,
    RECORDING_TASKS,
    SENSORS_OF,
    Data,
    Evaluation,
    Optimiser,
    Query,
    Split,
    Splits,
    Stage,
    StoreOptions,
    folders_of,
)
from xmodal.config.validation import build, dump
from xmodal.errors import ConfigError
from xmodal.graph.file import merge, read_graph
from xmodal.graph.graph import Graph, load_graph
from xmodal.graph.parts import GRAPH_NAME, split_arrow
from xmodal.graph.ports import Kind


class _Raw:
    """Tells pydantic to hand the mapping over as it is: the graph has a reader of its own."""

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.any_schema()


@dataclass(frozen=True, kw_only=True)
class RunFile:
    """Everything that a run depends on.

    Attributes:
        name: Short name of the run.
        graph: The modality graph; in the file inline, or the path of a graph file beside it.
        data: Scenes.
        splits: Which scenes serve for what.
        optimiser: How to train.
        stages: Parts of training, in turn, each with steps of its own; one of `optimiser.steps`
            steps with everything if empty.
        store: How features are kept.
        seed: Of everything random.
        query: How answers are cut into objects.
        evaluation: What to measure.
    """

    name: str
    graph: Annotated[Graph, _Raw]
    data: Data
    splits: Splits = field(default_factory=Splits)
    optimiser: Optimiser = field(default_factory=Optimiser)
    stages: tuple[Stage, ...] = ()
    store: StoreOptions = field(default_factory=StoreOptions)
    seed: Annotated[int, Ge(0)] = 0
    query: Query = field(default_factory=Query)
    evaluation: Evaluation = field(default_factory=Evaluation)

    @property
    def steps(self) -> int:
        """Updates of the whole training."""
        return sum(stage.steps for stage in self.stages) or self.optimiser.steps

    def scenes(self, split: Split) -> tuple[Path, ...]:
        """Folders of one split."""
        return tuple(p for p in self.data.scenes if self.splits.of(p.name) == split)

    def plain(self) -> dict[str, Any]:
        """The run as plain data, every setting written out and the graph inline."""
        plain: dict[str, Any] = {}
        for part in fields(self):
            value = getattr(self, part.name)
            if isinstance(value, Graph):
                plain[part.name] = value.plain()
            else:
                plain[part.name] = value if isinstance(value, (str, int)) else _plain(value)
        return plain

    def of_scene(self, folder: Path) -> RunFile:
        """The run of one of its scenes by itself."""
        return replace(self, data=replace(self.data, scene=str(folder)), splits=Splits())

    def to_yaml(self) -> str:
        """The run as a YAML file; reading it gives this run."""
        return write_yaml(self.plain(), block_levels=3)


def _plain(value: Any) -> Any:
    return [dump(part) for part in value] if isinstance(value, tuple) else dump(value)


def load_run(path: str | Path, overrides: Sequence[str] = ()) -> RunFile:
    """Read a run file.

    Args:
        path: The file.
        overrides: `key=value` with dotted keys, for scalars: `optimiser.steps=100`.

    Raises:
        ConfigError: With all mistakes of the file and the overrides.
        UsageError: If an override is not of the form key=value.
    """
    return _from_document(read_yaml(path), parse_overrides(overrides), Path(path).parent)


def _from_document(document: Document, overrides: Sequence[Override], folder: Path) -> RunFile:
    data: Any = document.data
    graph_file = None
    if isinstance(data, dict) and isinstance(cast("dict[str, Any]", data).get("graph"), str):
        graph_file = folder / cast("dict[str, str]", data)["graph"]
        own = [override for override in overrides if override.keys[0] != "graph"]
    else:
        own = list(overrides)
    document, problems = apply_overrides(document, own)
    data = document.data
    run = build(RunFile, data, document, (), problems)
    graph: Graph | None = None
    if isinstance(data, dict) and "graph" in data:
        if graph_file is not None:
            inner = [replace(o, keys=o.keys[1:]) for o in overrides if o.keys[0] == "graph"]
            graph = _graph_beside(document, graph_file, inner, problems)
        else:
            parts, found = read_graph(document, cast("dict[str, Any]", data)["graph"], ("graph",))
            problems.extend(p for p in found if p not in document.problems)
            graph = None if parts is None or found else Graph(**parts)
    if run is not None:
        _check(run, graph, document, problems)
    problems = merge(document, problems)
    if problems or run is None or graph is None:
        raise ConfigReportError(document.source, problems)
    return replace(run, graph=graph)


def _graph_beside(
    document: Document, file: Path, overrides: Sequence[Override], problems: list[Problem]
) -> Graph | None:
    """The graph of another file; its mistakes are a report of their own, as they have its lines."""
    if not file.is_file():
        problems.append(
            Problem(
                loc=("graph",),
                line=document.line(("graph",)),
                wanted="a graph, or the path of a graph file relative to this file",
                got=f"{file}, which is no file",
                fix="correct the path, or write the graph here",
            )
        )
        return None
    if not overrides:
        return load_graph(file)
    other, found = apply_overrides(read_yaml(file), overrides)
    parts, more = read_graph(other, other.data, ())
    if found or more or parts is None:
        raise ConfigReportError(other.source, [*found, *more])
    return Graph(**parts)


def _check(run: RunFile, graph: Graph | None, document: Document, problems: list[Problem]) -> None:
    def note(loc: Loc, wanted: str, got: str, fix: str) -> None:
        line = document.line(loc)
        problems.append(Problem(loc=loc, line=line, wanted=wanted, got=got, fix=fix))

    if GRAPH_NAME.fullmatch(run.name) is None:
        fix = "write a short name, such as `name: kitchen`"
        note(("name",), "a name of letters, digits, _ and -", show(run.name), fix)
    if run.data.has_recordings:
        _check_recordings(run, note)
    else:
        _check_splits(run, note)
        _check_unused(run, OF_RECORDINGS, "scenes", note)
        default = Data(scene="x")
        for key in (*OF_FILMS, "lacking", "noisy"):
            if getattr(run.data, key) != getattr(default, key):
                wanted = f"no `{key}`: it has no effect on scenes"
                note(("data", key), wanted, str(getattr(run.data, key)), "remove it")
    if graph is not None:
        _check_sensors(run, graph, note)
        _check_stages(run, graph, note)


def _check_splits(run: RunFile, note: Any) -> None:
    names = [scene.name for scene in run.data.scenes]
    for index, name in enumerate(names):
        if name in names[:index]:
            loc = ("data", "scene", index) if len(names) > 1 else ("data", "scene")
            note(loc, "folders with different names", f"`{name}` twice", "rename one folder")
    # Patterns that match nothing here are for a machine that has the data.
    known = bool(names) and not any(glob.has_magic(t) and not folders_of(t) for t in _texts(run))
    for split in ("val", "test"):
        for index, pattern in enumerate(getattr(run.splits, split)):
            loc = ("splits", split, index)
            matched = [name for name in names if fnmatchcase(name, pattern)]
            if known and not matched:
                fix = "add it to data.scene, or drop it here"
                shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
                note(loc, f"a scene of data.scene: {shown}", f"`{pattern}`", fix)
            both = [name for name in matched if split == "test" and run.splits.of(name) == "val"]
            if both or (split == "test" and pattern in run.splits.val):
                note(loc, "each scene in one split", f"`{pattern}` in val too", "keep one")
    if known and not run.scenes("train"):
        note(("splits",), "at least one scene to train on", "none", "hold fewer scenes back")


def _check_recordings(run: RunFile, note: Any) -> None:
    """What of a run over recordings can be wrong before they are opened."""
    _check_unused(run, OF_SCENES, "recordings", note)
    for split in ("val", "test"):
        for index, pattern in enumerate(getattr(run.splits, split)):
            if split == "test" and pattern in run.splits.val:
                loc = ("splits", split, index)
                note(loc, "each recording in one split", f"`{pattern}` in val too", "keep one")
    for index, task in enumerate(run.evaluation.tasks):
        if task not in RECORDING_TASKS:
            fix = suggest(task, RECORDING_TASKS, "name one of them")
            note(("evaluation", "tasks", index), one_of(RECORDING_TASKS), f"`{task}`", fix)
    _check_streams(run, note)


def _check_streams(run: RunFile, note: Any) -> None:
    default = Data(scene="x")
    films = ("max_side_px", *OF_FILMS) if run.data.format != "clips" else ()
    for key in ("voxel_m", "max_frames", "label_set", *films):
        if getattr(run.data, key) != getattr(default, key):
            where = "without films" if key in films else "on recordings"
            note(("data", key), f"no `{key}`: it has no effect {where}", "one", "remove it")
    if run.data.hop_s is not None and run.data.cut_s is None:
        wanted = "`cut_s`, the length of a piece, beside `hop_s`"
        note(("data", "hop_s"), wanted, "`hop_s` alone", "add `cut_s`, or remove it")
    for key in ("lacking", "noisy"):
        for kind in getattr(run.data, key):
            if kind not in SENSORS_OF[run.data.format]:
                wanted = one_of([k for k in SENSORS_OF[run.data.format] if k != "labels"])
                note(("data", key), wanted, f"`{kind}`", "name a stream of the data")


def _check_unused(run: RunFile, keys: Sequence[str], samples: str, note: Any) -> None:
    default = Optimiser()
    for key in keys:
        if getattr(run.optimiser, key) != getattr(default, key):
            wanted = f"no `{key}`: it has no effect on {samples}"
            note(("optimiser", key), wanted, str(getattr(run.optimiser, key)), "remove it")


def _texts(run: RunFile) -> tuple[str, ...]:
    return (run.data.scene,) if isinstance(run.data.scene, str) else run.data.scene


def _check_stages(run: RunFile, graph: Graph, note: Any) -> None:
    arrows = [edge.key for edge in graph.losses()]
    learn = [*graph.students(), *arrows]
    for index, stage in enumerate(run.stages):
        if stage.name in [other.name for other in run.stages[:index]]:
            fix = "give every stage a name of its own"
            note(("stages", index, "name"), "different names", f"`{stage.name}` twice", fix)
        for key, known in (("train", learn), ("edges", arrows)):
            for place, name in enumerate(getattr(stage, key)):
                if _arrow(name) not in known:
                    loc = ("stages", index, key, place)
                    note(loc, one_of(known), f"`{name}`", suggest(name, known, "name one of them"))
        for heir, name in stage.inherit.items():
            for one in (heir, name):
                if one not in graph.students():
                    known = list(graph.students())
                    loc = ("stages", index, "inherit", heir)
                    note(loc, one_of(known), f"`{one}`", suggest(one, known, "name one of them"))
        if {_arrow(name) for name in stage.train} & set(arrows) - _active(stage, arrows):
            fix = "add the arrow to `edges`, or drop it from `train`"
            note(("stages", index, "train"), "arrows that count in this stage", "others too", fix)


def _arrow(name: str) -> str:
    """An arrow as the graph writes it, whatever blanks it was given with."""
    split = split_arrow(name)
    return name if split is None else f"{', '.join(split[0])} -> {split[1]}"


def _active(stage: Stage, arrows: Sequence[str]) -> set[str]:
    return {_arrow(name) for name in stage.edges} or set(arrows)


def _check_sensors(run: RunFile, graph: Graph, note: Any) -> None:
    given = SENSORS_OF[run.data.format]
    first: dict[Kind, str] = {}
    for name, node in graph.sensors().items():
        loc = ("graph", "nodes", name)
        if node.kind not in given:
            fix = "choose data with this sensor, or a graph without it"
            wanted = f"a sensor of {run.data.format} data: {', '.join(given)}"
            note(loc, wanted, f"`{name}`, which is {node.kind}", fix)
        # Maps are told apart by the names of their nodes.
        elif node.kind in first and node.kind != "grids":
            got = f"`{name}` beside `{first[node.kind]}`"
            fix = "use one node for both"
            note(loc, f"one {node.kind} sensor, as {run.data.format} data has", got, fix)
        first.setdefault(node.kind, name)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `xmodal check` says about a file that is right."""

    path: Path
    kind: Literal["graph", "run"]
    graph: Graph
    run: RunFile | None = None

    def __str__(self) -> str:
        lines = [f"{self.path}: a valid {self.kind} file", self.graph.summary()]
        if self.run is not None:
            run = self.run
            lines.append(f"run {run.name}")
            lines.append(f"  data     {', '.join(_texts(run))} ({run.data.format})")
            if run.graph.students():
                steps, rate = run.steps, run.optimiser.lr
                lines.append(f"  training {steps} steps, lr {rate:g}, seed {run.seed}")
        return "\n".join(lines)


def check_file(path: str | Path) -> Report:
    """Validate a graph or run file; which of the two it is, its keys say.

    Raises:
        ConfigError: With all mistakes.
    """
    document = read_yaml(path)
    keys: set[str] = (
        set(cast("dict[str, Any]", document.data or {}))
        if isinstance(document.data, dict)
        else set()
    )
    run_keys = {part.name for part in fields(RunFile)} - {"name"}
    graph_keys = {part.name for part in fields(Graph)} - {"name"}
    if not keys & (run_keys | graph_keys) and not document.problems:
        raise ConfigError(
            str(path),
            wanted=f"a graph file ({', '.join(sorted(graph_keys))}) or a run file "
            f"({', '.join(sorted(run_keys))})",
            got=f"the keys {', '.join(sorted(keys))}" if keys else show(document.data),
            fix="start from a file of configs/",
        )
    if len(keys & run_keys) > len(keys & graph_keys):
        run = _from_document(document, (), Path(path).parent)
        return Report(path=Path(path), kind="run", graph=run.graph, run=run)
    return Report(path=Path(path), kind="graph", graph=load_graph(path))
