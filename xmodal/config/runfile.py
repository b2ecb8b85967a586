"""Run files: a graph, the data, how to train, and what to measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, cast

from annotated_types import Ge, Gt, Le, Len, Lt
from pydantic import GetCoreSchemaHandler
from pydantic_core import core_schema

from xmodal.config.overrides import Override, apply_overrides, parse_overrides
from xmodal.config.problems import ConfigReportError, Loc, Problem, show
from xmodal.config.reader import Document, read_yaml, write_yaml
from xmodal.config.validation import build, dump
from xmodal.errors import ConfigError
from xmodal.graph.file import merge, read_graph
from xmodal.graph.graph import Graph, load_graph
from xmodal.graph.parts import GRAPH_NAME
from xmodal.graph.ports import Kind

Format = Literal["posed_rgbd"]
Task = Literal["segmentation", "localisation"]
Split = Literal["train", "val", "test"]
Count = Annotated[int, Gt(0)]
Amount = Annotated[float, Ge(0)]
Names = tuple[str, ...]

# What each kind of dataset brings; a graph may use less.
SENSORS_OF: Mapping[Format, tuple[Kind, ...]] = MappingProxyType(
    {"posed_rgbd": ("image", "depth", "points")}
)


class _Raw:
    """Tells pydantic to hand the mapping over as it is: the graph has a reader of its own."""

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.any_schema()


@dataclass(frozen=True, kw_only=True)
class Data:
    """What to lift and train on.

    Attributes:
        scene: A folder, or several; relative to where the command is run.
        format: How the folders are laid out.
        voxel_m: Spacing of points fused from depth, metres, where a scene has no cloud of its own.
        max_frames: Use this many frames of a scene, evenly spaced; all if null.
    """

    scene: Annotated[str, Len(1)] | Annotated[tuple[Annotated[str, Len(1)], ...], Len(1)]
    format: Format = "posed_rgbd"
    voxel_m: Annotated[float, Gt(0), Le(10)] = 0.02
    max_frames: Count | None = None

    @property
    def scenes(self) -> tuple[Path, ...]:
        """The folders, one or several."""
        return tuple(map(Path, (self.scene,) if isinstance(self.scene, str) else self.scene))


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Which scenes serve for what, by the names of their folders; those not named train."""

    val: Names = ()
    test: Names = ()


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What training varies from crop to crop; see `xmodal.train.crops.Augment`."""

    shift: bool = True
    rotate_rad: Amount = 0.0
    scale: Annotated[float, Ge(0), Lt(1)] = 0.0
    jitter_m: Amount = 0.0
    input_jitter: Amount = 0.0
    up: Literal["x", "y", "z", "-x", "-y", "-z"] = "z"


@dataclass(frozen=True, kw_only=True)
class Optimiser:
    """How to train: AdamW with a linear warm-up, then half a cosine down to zero.

    Attributes:
        steps: Number of updates.
        crop_points: Points of all crops of a step together; bounds its memory and time.
        crops: Places of the scene that a step sees.
        loss_rows: Points of the crops that are compared with the teacher.
        lr: Peak learning rate.
        warmup_steps: Updates of the warm-up; all of them where there are fewer.
        weight_decay: Of matrices and kernels.
        grad_clip: Largest norm of all gradients together.
        augment: What is varied from crop to crop.
        log_every: Steps between records in the log.
        checkpoint_every: Steps between checkpoints; there is always one at the end.
        keep_checkpoints: How many of the newest checkpoints stay.
        threads: Threads of one operation on the CPU; 0 for torch's own setting.
    """

    steps: Count = 800
    crop_points: Count = 16384
    crops: Count = 4
    loss_rows: Count = 4096
    lr: Annotated[float, Gt(0)] = 1e-2
    warmup_steps: Annotated[int, Ge(0)] = 30
    weight_decay: Amount = 0.01
    grad_clip: Annotated[float, Gt(0)] = 1.0
    augment: Augmentation = field(default_factory=Augmentation)
    log_every: Count = 10
    checkpoint_every: Count = 200
    keep_checkpoints: Count = 2
    threads: Annotated[int, Ge(0)] = 1


@dataclass(frozen=True, kw_only=True)
class Query:
    """How answers are cut into objects.

    Attributes:
        threshold: Points count as found from this share of the query's highest relevancy.
    """

    threshold: Annotated[float, Gt(0), Le(1)] = 0.5


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What `eval` measures.

    Attributes:
        tasks: Tasks; whatever the scene has labels for if empty.
        names: Objects to tell apart; those of the scene if empty.
        other: Texts that stand for everything else.
    """

    tasks: tuple[Task, ...] = ()
    names: Names = ()
    other: Names = ()


@dataclass(frozen=True, kw_only=True)
class RunFile:
    """Everything that a run depends on.

    Attributes:
        name: Short name of the run.
        graph: The modality graph; in the file inline, or the path of a graph file beside it.
        data: Scenes.
        splits: Which scenes serve for what.
        optimiser: How to train.
        seed: Of everything random.
        query: How answers are cut into objects.
        evaluation: What to measure.
    """

    name: str
    graph: Annotated[Graph, _Raw]
    data: Data
    splits: Splits = field(default_factory=Splits)
    optimiser: Optimiser = field(default_factory=Optimiser)
    seed: Annotated[int, Ge(0)] = 0
    query: Query = field(default_factory=Query)
    evaluation: Evaluation = field(default_factory=Evaluation)

    def scenes(self, split: Split) -> tuple[Path, ...]:
        """Folders of one split."""
        held = dict.fromkeys(self.splits.val, "val") | dict.fromkeys(self.splits.test, "test")
        return tuple(p for p in self.data.scenes if held.get(p.name, "train") == split)

    def plain(self) -> dict[str, Any]:
        """The run as plain data, every setting written out and the graph inline."""
        plain: dict[str, Any] = {}
        for part in fields(self):
            value = getattr(self, part.name)
            if isinstance(value, Graph):
                plain[part.name] = value.plain()
            else:
                plain[part.name] = value if isinstance(value, (str, int)) else dump(value)
        return plain

    def to_yaml(self) -> str:
        """The run as a YAML file; reading it gives this run."""
        return write_yaml(self.plain(), block_levels=3)


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
    _check_splits(run, note)
    if graph is not None:
        _check_sensors(run, graph, note)


def _check_splits(run: RunFile, note: Any) -> None:
    names = [scene.name for scene in run.data.scenes]
    for index, name in enumerate(names):
        if name in names[:index]:
            loc = ("data", "scene", index)
            note(loc, "folders with different names", f"`{name}` twice", "rename one folder")
    for split in ("val", "test"):
        for index, name in enumerate(getattr(run.splits, split)):
            loc = ("splits", split, index)
            if name not in names:
                fix = "add it to data.scene, or drop it here"
                note(loc, f"a scene of data.scene: {', '.join(names)}", f"`{name}`", fix)
            elif split == "test" and name in run.splits.val:
                note(loc, "each scene in one split", f"`{name}` in val too", "keep one")
    if not run.scenes("train") and names:
        note(("splits",), "at least one scene to train on", "none", "hold fewer scenes back")


def _check_sensors(run: RunFile, graph: Graph, note: Any) -> None:
    given = SENSORS_OF[run.data.format]
    first: dict[Kind, str] = {}
    for name, node in graph.sensors().items():
        loc = ("graph", "nodes", name)
        if node.kind not in given:
            fix = "choose data with this sensor, or a graph without it"
            wanted = f"a sensor of {run.data.format} data: {', '.join(given)}"
            note(loc, wanted, f"`{name}`, which is {node.kind}", fix)
        elif node.kind in first:
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
            lines.append(f"  data     {', '.join(map(str, run.data.scenes))} ({run.data.format})")
            if run.graph.students():
                steps, rate = run.optimiser.steps, run.optimiser.lr
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
