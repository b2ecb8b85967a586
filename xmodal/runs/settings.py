"""From the command line to a run file, and from a run file to what it needs."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xmodal.config.run_parts import Data, Evaluation
from xmodal.config.runfile import RunFile
from xmodal.edges import Op, op_class, op_names
from xmodal.errors import UsageError
from xmodal.graph import Edge, Graph, Node
from xmodal.graph.parts import projects
from xmodal.graph.ports import gives_of

if TYPE_CHECKING:
    from xmodal.datasets import Scene
    from xmodal.datasets.opening import Need
    from xmodal.teachers import Teacher

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
# What "other" means when a run file says nothing else: surfaces in plain words, and in the words of
# a vocabulary of things, where a bare wall is most like a window shade.
_OTHER = (
    "table", "floor", "wall", "ceiling", "dining table", "desk", "window shade",
    "shower curtain", "doormat", "wardrobe", "sliding door",
)  # fmt: skip
_LOSSES = {"simplex": "kl", "unit": "cosine", "raw": "mse"}
# Chosen on ten kitchen frames with boxes of their own, none of them among the four that are
# reported: strict localisation 28 of 50 for single views, 28 lifted, 30 smoothed, 38 with both.
_SMOOTH_M = 0.045
_SEGMENT_SHARE = 0.9
TARGETS = ("points", "gaussians")
# Of photos: what a fit of minutes on one core can place.
_PHOTO_SPLATS, _PHOTO_STEPS = 10_000, 2000
# Splats that start opaque stay where they are; see-through ones give way: a decibel and more on
# new views of a dozen photos.
_PHOTO_OPACITY = 0.1
# The habit of the field: every eighth photo tests new views.
_HOLD_OUT = 8
# Of fewer photos every one is needed for the fit.
_FEW_PHOTOS = 4


def parse_bytes(text: str) -> int:
    """Read a size such as 500MB or 4GB.

    Raises:
        UsageError: If it is not one.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?B)?\s*", text, re.I)
    if found is None:
        raise UsageError(
            "--disk-budget", wanted="a size such as 500MB or 4GB", got=text, fix="--disk-budget 4GB"
        )
    return int(float(found[1]) * _UNITS[(found[2] or "").upper()])


def teacher_op(spec: str) -> Op:
    """The encode op of NAME[:MODEL[@CHECKPOINT]].

    Raises:
        UsageError: If there is no such teacher or it takes no model or checkpoint.
    """
    name, _, rest = spec.partition(":")
    teachers = [n for n in op_names("encode") if hasattr(op_class("encode", n), "teacher")]
    if name not in teachers:
        raise UsageError(
            f"--teacher {spec}",
            wanted=f"NAME[:MODEL[@CHECKPOINT]], NAME one of {', '.join(teachers)}",
            got=name or "no name",
            fix="--teacher embedded needs no download",
        )
    cls: Any = op_class("encode", name)
    known = {f.name for f in fields(cls)}
    model, _, checkpoint = rest.partition("@")
    given: dict[str, str] = {}
    if name == "precomputed":
        given = {"folder": rest} if rest else {}
    else:
        given |= {"model": model} if model else {}
        given |= {"checkpoint": checkpoint} if checkpoint else {}
    if unused := sorted(set(given) - known):
        raise UsageError(
            f"--teacher {spec}",
            wanted=f"{name} without {' and '.join(unused)}",
            got=rest,
            fix=f"--teacher {name}",
        )
    try:
        return cls(**given)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"--teacher {spec}",
            wanted="settings that the teacher takes",
            got=str(error),
            fix="see docs/teachers.md",
        ) from error


def default_graph(name: str, op: Op, *, voxel_m: float, up: str, depth: bool = True) -> Graph:
    """The main job's graph: a teacher, a lift to points, a student that sees points.

    Args:
        name: Name of the graph.
        op: The teacher's op.
        voxel_m: Spacing of the cloud, metres; the student's voxels are half as wide again.
        up: World axis that points up.
        depth: Whether the scene has depth maps; without them the points hide one another.
    """
    any_op: Any = op
    kind = gives_of(op)[0]
    teacher = None if isinstance(any_op.channels, int) else any_op.teacher()
    channels = any_op.channels if teacher is None else teacher.channels
    space = getattr(any_op, "space", None) or (teacher or any_op.teacher()).space
    student: Any = op_class("encode", "sparse_unet")
    points: Any = op_class("lift", "points")
    loss: Any = op_class("distill", _LOSSES[space])
    return Graph(
        name=name,
        nodes={
            "cameras": Node(kind="image"),
            **({"depth": Node(kind="depth")} if depth else {}),
            "cloud": Node(kind="points"),
            "maps": Node(kind=kind, channels=channels),
            "lifted": Node(kind="points", channels=channels, on="cloud"),
            "student": Node(kind="points", channels=channels, on="cloud"),
        },
        encode={
            "cameras -> maps": op,
            "cloud -> student": student(
                voxel_m=round(1.5 * voxel_m, 6), inputs=("rgb", "normals", "height", "xyz"), up=up
            ),
        },
        lift={
            f"maps, {'depth, ' if depth else ''}cloud -> lifted": points(
                smooth_m=_SMOOTH_M, segment_share=_SEGMENT_SHARE
            )
        },
        distill={"lifted -> student": loss()},
    )


def default_fit(scene: Scene, *, num: int | None, steps: int | None, seed: int) -> Op:
    """How splats of a scene come about unless a file says it.

    Args:
        scene: The scene. Its points are splats already, unless structure from motion left them:
            photos are swept for more, and for all where there are none.
        num: Splats to start from.
        steps: Pictures that are shown.
        seed: Of all chance.

    Raises:
        UsageError: If photos without points are to be splats without a fit.
    """
    fit: Any = op_class("lift", "fit_splats")
    if scene.depths is None and scene.points_file is None and steps == 0:
        raise UsageError(
            "--steps 0",
            wanted="a fit of 1 step or more: splats of photos without points",
            got="0",
            fix="leave --steps out",
        )
    if scene.depths is None and (scene.points_file is None or scene.sparse_points) and steps != 0:
        start = "sweep" if scene.points_file is None else "both"
        return fit(
            start=start,
            num=_PHOTO_SPLATS if num is None else num,
            steps=_PHOTO_STEPS if steps is None else steps,
            opacity=_PHOTO_OPACITY,
            hold_out=_HOLD_OUT if len(scene.images) >= _FEW_PHOTOS else None,
            seed=seed,
        )
    given = {} if num is None else {"num": num}
    if not steps:
        return fit(**{"num": 1_000_000, **given}, steps=0, strategy="none", opacity=0.9, seed=seed)
    return fit(**{"num": 1_000_000, **given}, steps=steps, strategy="none", seed=seed)


def splats_graph(name: str, op: Op, fit: Op, *, cloud: bool) -> Graph:
    """A teacher lifted to splats in closed form.

    Args:
        name: Name of the graph.
        op: The teacher's op.
        fit: Where the splats come from.
        cloud: Whether the scene has points to start from.
    """
    any_op: Any = op
    channels = any_op.channels if isinstance(any_op.channels, int) else any_op.teacher().channels
    lift: Any = op_class("lift", "splats")
    return Graph(
        name=name,
        nodes={
            "cameras": Node(kind="image"),
            **({"cloud": Node(kind="points")} if cloud else {}),
            "splats": Node(kind="gaussians"),
            "maps": Node(kind=gives_of(op)[0], channels=channels),
            "lifted": Node(kind="gaussians", channels=channels, on="splats"),
        },
        encode={"cameras -> maps": op},
        lift={
            f"cameras{', cloud' if cloud else ''} -> splats": fit,
            "maps, splats -> lifted": lift(),
        },
    )


def splats_runfile(scene: Scene, op: Op, data: Data, seed: int, fit: Op) -> RunFile:
    """A full run file for the splats of one scene."""
    name = scene_name(scene.root)
    cloud = scene.depths is not None or scene.points_file is not None
    return RunFile(
        name=name,
        graph=splats_graph(name, op, fit, cloud=cloud),
        data=data,
        seed=seed,
        evaluation=Evaluation(other=_OTHER),
    )


def scene_name(path: Path) -> str:
    """A graph name from a folder's name."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", path.resolve().name).strip("-_")[:64] or "scene"


def default_runfile(scene: Scene, op: Op, data: Data, seed: int) -> RunFile:
    """A full run file for one scene."""
    name = scene_name(scene.root)
    depth = scene.depths is not None
    return RunFile(
        name=name,
        graph=default_graph(name, op, voxel_m=data.voxel_m, up=up_axis(scene), depth=depth),
        data=data,
        seed=seed,
        evaluation=Evaluation(other=_OTHER),
    )


def up_axis(scene: Scene) -> str:
    """The world axis nearest to up: the scene's own, else against the cameras' mean down axis."""
    import torch

    up = scene.up
    if up is None:
        down = torch.stack([camera.T_world_cam[:3, 1] for camera in scene.images.cameras])
        up = -down.mean(0)
    axis = int(up.abs().argmax())
    return ("" if up[axis] > 0 else "-") + "xyz"[axis]


def teacher_edge(graph: Graph, source: str | None = None) -> Edge:
    """The frozen teacher whose language a source's rows speak.

    Args:
        graph: The run's graph.
        source: A node with features, or a head `STUDENT.TEACHER`; the node `lifted` or, without
            one, whatever teacher there is if None.

    Raises:
        UsageError: If there is none, or several.
    """
    if source is None and "lifted" in graph.nodes:
        source = "lifted"
    found = dict(graph.teachers()) if source is None else teachers_of(graph, source)
    if len(found) != 1:
        raise UsageError(
            f"graph {graph.name}" + (f", {source}" if source else ""),
            wanted="one teacher, whose text encoder is asked",
            got=f"{len(found)} teachers: {', '.join(found) or 'none'}",
            fix="name a node or a head of one teacher with --source",
        )
    return next(iter(found.values()))


def teachers_of(graph: Graph, source: str) -> dict[str, Edge]:
    """The edges whose rows, by node, a source's rows are like.

    Going up from the node, the first edge that can be asked decides: a frozen teacher, or a lift
    with a text side of its own. A student is like those that teach it without a projection.
    """
    node = source.rpartition(".")[2]
    makers = {edge.target: edge for edge in graph.order()}
    if node not in makers:
        return {}
    edge = makers[node]
    if edge.is_teacher or hasattr(edge.op, "text_side"):
        return {node: edge}
    above = edge.sources
    if edge.has_weights:
        direct = [e for e in graph.losses() if e.target == node and not projects(e.op)]
        above = tuple(s for e in direct for s in e.sources if makers[s].op.op != "ema")
    found: dict[str, Edge] = {}
    for name in above:
        found |= teachers_of(graph, name)
    return found


def text_teacher(edge: Edge) -> Teacher:
    """Whoever understands questions about the rows that an edge gives."""
    op: Any = edge.op
    return op.text_side() if hasattr(op, "text_side") else op.teacher()


def sensor_values(graph: Graph, scene: Scene, cloud: Any) -> dict[str, Any]:
    """A scene's views and points under the names of the graph's sensors."""
    given = {
        "image": scene.images,
        "depth": scene.depths,
        "points": cloud,
        "labels": scene.labels(),
    }
    values = {name: given[node.kind] for name, node in graph.sensors().items()}
    return {name: value for name, value in values.items() if value is not None}


def open_run_scene(spec: RunFile, index: int = 0) -> Scene:
    """Open a scene as its run file says; a graph without views takes a cloud alone."""
    from xmodal.datasets import open_scene

    data = spec.data
    kinds = {node.kind for node in spec.graph.sensors().values()}
    return open_scene(
        data.scenes[index],
        voxel_m=data.voxel_m,
        max_frames=data.max_frames,
        label_set=data.label_set,
        need=_needs(kinds),
        max_side_px=data.max_side_px,
    )


def _needs(kinds: Collection[str]) -> tuple[Need, ...]:
    """What a scene must have for sensors of these kinds."""
    if not {"image", "depth"} & set(kinds):
        return ("points",)
    return ("views", "points") if "points" in kinds else ("views",)
