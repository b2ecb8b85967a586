from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lifting.cameras import Camera
from xmodal.edges import op_class
from xmodal.errors import BackendError, ConfigError, DataError
from xmodal.graph import Graph, Node, load_graph
from xmodal.values import Depth, FeatureMap, Image, Points, Views

ROOT = Path(__file__).parents[2]


def op(verb: Any, name: str, **keys: Any) -> Any:
    return op_class(verb, name)(**keys)


# ---- a small real scene: one camera above a floor of nine points -------------------------------


@dataclass(frozen=True)
class ColourTeacher:
    """The mean colour of every cell of a 4 x 4 grid: a teacher whose answer is known."""

    name: str = "colour"
    channels: int = 3
    space: str = "raw"
    fingerprint: str = "colour-1"
    licence: str = "none"

    def encode(self, image: Image) -> FeatureMap:
        cells = torch.nn.functional.adaptive_avg_pool2d(image.rgb, 4).flatten(1).T
        return FeatureMap(
            rows=cells.contiguous(),
            valid=torch.ones(16, dtype=torch.bool),
            weight=torch.ones(16),
            grid_hw=(4, 4),
            camera=image.camera,
            name=image.name,
        )


class Encoded(Sequence[FeatureMap]):
    """Maps of all views, encoded when asked for; counts how often that was."""

    def __init__(self, teacher: Any, images: Sequence[Image]) -> None:
        self.teacher, self.images, self.asked = teacher, images, 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self.images):
            raise IndexError(index)
        self.asked += 1
        return self.teacher.encode(self.images[index])


@dataclass(frozen=True, kw_only=True)
class Colour:
    op: Literal["colour"] = "colour"
    frozen: Literal[True] = True

    def teacher(self) -> ColourTeacher:
        return ColourTeacher()

    def __call__(self, teacher: ColourTeacher, cameras: Views[Image]) -> Views[FeatureMap]:
        return Encoded(teacher, cameras)


def colour_graph() -> Graph:
    on = Node(kind="points", channels=3, on="cloud")
    return Graph(
        name="colour",
        nodes={
            "cameras": Node(kind="image"),
            "depth": Node(kind="depth"),
            "cloud": Node(kind="points"),
            "maps": Node(kind="feature_map", channels=3),
            "lifted": on,
            "student": on,
        },
        encode={
            "cloud -> student": op("encode", "point_mlp", width=8, depth=1, inputs=("rgb", "xyz")),
            "cameras -> maps": Colour(),
        },
        lift={"maps, depth, cloud -> lifted": op("lift", "points")},
        distill={"lifted -> student": op("distill", "mse")},
    )


def scene() -> dict[str, Any]:
    camera = Camera(
        K=torch.tensor([[20.0, 0, 16], [0, 20.0, 16], [0, 0, 1]]),
        T_world_cam=torch.eye(4),
        hw=(32, 32),
    )
    generator = torch.Generator().manual_seed(0)
    rgb = torch.rand(3, 32, 32, generator=generator)
    x, y = torch.meshgrid(torch.linspace(-0.6, 0.6, 3), torch.linspace(-0.6, 0.6, 3), indexing="ij")
    xyz = torch.stack([x.flatten(), y.flatten(), torch.ones(9)], dim=1)
    return {
        "cameras": [Image(rgb=rgb, camera=camera, name="0")],
        "depth": [Depth(depth_m=torch.ones(32, 32), camera=camera, name="0")],
        "cloud": Points(xyz=xyz, offsets=torch.tensor([0, 9]), rgb=torch.rand(9, 3)),
    }


# ---- structure -----------------------------------------------------------------------------------


def test_edges_come_after_what_they_depend_on() -> None:
    graph = load_graph(ROOT / "configs/graphs/kitchen.yaml")
    order = [edge.key for edge in graph.order()]
    assert set(order) == {"cameras -> maps", "cloud -> student", "maps, depth, cloud -> lifted"}
    assert order.index("cameras -> maps") < order.index("maps, depth, cloud -> lifted")
    assert [edge.key for edge in graph.losses()] == ["lifted -> student"]
    assert graph.frozen_nodes() == ("maps", "lifted")
    assert list(graph.students()) == ["student"]
    assert list(graph.teachers()) == ["maps"]
    assert list(graph.sensors()) == ["cameras", "depth", "cloud"]
    assert graph.space("student") == graph.space("lifted") == "simplex"


@pytest.mark.parametrize(
    "file", sorted((ROOT / "configs/graphs").glob("*.yaml")), ids=lambda f: f.stem
)
def test_every_graph_file_loads_and_writes_itself_back(file: Path) -> None:
    graph = load_graph(file)
    assert graph.name == file.stem
    assert Graph.from_yaml(graph.to_yaml()) == graph
    assert graph.summary().splitlines()[0] == f"graph {file.stem}"


def test_source_order_and_spaces_of_an_arrow_do_not_matter() -> None:
    text = (ROOT / "configs/graphs/kitchen.yaml").read_text()
    graph = Graph.from_yaml(
        text.replace("maps, depth, cloud -> lifted", "cloud,maps ,depth->lifted")
    )
    assert graph.order()[-1].key == "cloud, maps, depth -> lifted"


def test_a_graph_made_in_python_is_checked_as_well() -> None:
    with pytest.raises(ConfigError, match="unknown node") as caught:
        Graph(
            name="bad",
            nodes={"cloud": Node(kind="points")},
            encode={"cloud -> gone": op("encode", "point_mlp")},
        )
    assert caught.value.exit_code == 4
    assert "graph 'bad', encode > cloud -> gone" in str(caught.value)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", "x" * 65, "-x"])
def test_a_name_that_is_no_folder_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="letters, digits"):
        Graph(name=name, nodes={})


def test_a_text_that_is_no_arrow_is_refused() -> None:
    with pytest.raises(ConfigError, match="an arrow"):
        Graph(name="x", nodes={"a": Node(kind="image")}, encode={"a": op("encode", "embedded")})


def test_only_the_frozen_part_makes_the_fingerprint() -> None:
    text = (ROOT / "configs/graphs/kitchen.yaml").read_text()
    base = Graph.from_yaml(text).frozen_fingerprint()
    student = text.replace("size: tiny", "size: small").replace("kitchen", "other")
    assert Graph.from_yaml(student).frozen_fingerprint() == base
    assert Graph.from_yaml(text.replace("frozen: true", "frozen: true, grid: 8")) != base
    teacher = text.replace("frozen: true", "frozen: true, grid: 8")
    assert Graph.from_yaml(teacher).frozen_fingerprint() != base


# ---- identity ------------------------------------------------------------------------------------


# Plain draws only: graphs are built in the test, as run-time checkers use the `random` module.
BRANCH = st.fixed_dictionaries(
    {
        "teacher": st.sampled_from(
            [
                ("masks", 1000, "embedded", "kl"),
                ("feature_map", 384, "dino", "cosine"),
                ("masks", 256, "sam", "mse"),
            ]
        ),
        "project": st.sampled_from(["none", "linear", "orthogonal"]),
        "width": st.integers(1, 700),
        "on": st.sampled_from(["cloud", None, "lifted"]),
        "voxel_m": st.floats(1e-6, 1e3, allow_subnormal=False),
        "up": st.sampled_from(["x", "-y", "z"]),
        "weight": st.floats(1e-30, 1e30),
    }
)
BRANCHES = st.dictionaries(
    st.from_regex(r"[a-z][a-z0-9_]{2,8}", fullmatch=True), BRANCH, min_size=1, max_size=4
)


def graph_of(name: str, depth: bool, branches: dict[str, dict[str, Any]]) -> Graph:
    nodes = {"cameras": Node(kind="image"), "cloud": Node(kind="points")}
    if depth:
        nodes["depth"] = Node(kind="depth")
    encode: dict[str, Any] = {}
    lift: dict[str, Any] = {}
    distill: dict[str, Any] = {}
    for key, branch in branches.items():
        kind, channels, teacher, loss = branch["teacher"]
        width = channels if branch["project"] == "none" else branch["width"]
        on = f"lifted_{key}" if branch["on"] == "lifted" else branch["on"]
        nodes[f"maps_{key}"] = Node(kind=kind, channels=channels)
        nodes[f"lifted_{key}"] = Node(kind="points", channels=channels, on="cloud")
        nodes[f"student_{key}"] = Node(kind="points", channels=width, on=on)
        encode[f"cameras -> maps_{key}"] = op("encode", teacher)
        encode[f"cloud -> student_{key}"] = op(
            "encode", "sparse_unet", voxel_m=branch["voxel_m"], up=branch["up"]
        )
        arrow = f"maps_{key}{', depth' if depth else ''}, cloud -> lifted_{key}"
        lift[arrow] = op("lift", "points")
        distill[f"lifted_{key} -> student_{key}"] = op(
            "distill", loss, weight=branch["weight"], project=branch["project"]
        )
    return Graph(name=name, nodes=nodes, encode=encode, lift=lift, distill=distill)


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(["a", "no", "1e3", "null", "3", "on"]), st.booleans(), BRANCHES)
def test_a_graph_written_and_read_is_the_same_graph(
    name: str, depth: bool, branches: dict[str, dict[str, Any]]
) -> None:
    graph = graph_of(name, depth, branches)
    text = graph.to_yaml()
    again = Graph.from_yaml(text)
    assert again == graph
    assert again.to_yaml() == text


# ---- running -------------------------------------------------------------------------------------


def test_running_lifts_what_the_teacher_sees() -> None:
    values = colour_graph().run(scene())
    lifted = values["lifted"]
    assert isinstance(lifted, Points)
    assert lifted.rows is not None and lifted.valid is not None
    assert lifted.valid.all()
    # the middle point projects to the corner of four cells: bilinear gives their mean
    cells = ColourTeacher().encode(values["cameras"][0]).rows.view(4, 4, 3)
    torch.testing.assert_close(lifted.rows[4], cells[1:3, 1:3].mean((0, 1)))
    assert "student" not in values  # no module was given


def test_a_node_that_is_given_is_not_computed_and_changes_nothing() -> None:
    graph = colour_graph()
    fresh = graph.run(scene())
    kept = graph.run(scene() | {"maps": [fresh["maps"][0]]})
    torch.testing.assert_close(kept["lifted"].rows, fresh["lifted"].rows, rtol=0, atol=0)

    class Broken(ColourTeacher):
        def encode(self, image: Image) -> FeatureMap:
            raise AssertionError("must not be asked")

    again = graph.run(scene() | {"lifted": fresh["lifted"]}, teachers={"maps": Broken()})
    assert again["lifted"] is fresh["lifted"]


def test_views_are_encoded_when_they_are_asked_for() -> None:
    values = colour_graph().run(scene(), targets=["maps"])
    assert isinstance(values["maps"], Encoded)
    assert values["maps"].asked == 0
    assert "lifted" not in values


def test_the_caller_may_stand_between_teacher_and_lift() -> None:
    seen: list[str] = []

    def wrap(edge: Any, teacher: Any, views: Sequence[Image]) -> list[FeatureMap]:
        seen.append(f"{edge.key} by {teacher.name}")
        return [teacher.encode(view) for view in views]

    given = colour_graph().run(scene(), wrap=wrap)
    plain = colour_graph().run(scene())
    assert seen == ["cameras -> maps by colour"]
    torch.testing.assert_close(given["lifted"].rows, plain["lifted"].rows, rtol=0, atol=0)


def test_a_student_runs_with_its_module() -> None:
    graph = colour_graph()
    nets = graph.build_nets()
    assert list(nets) == ["student"]  # nothing to learn in the loss without a projection
    student = graph.run(scene(), nets)["student"]
    assert isinstance(student, Points)
    assert student.rows is not None and student.rows.shape == (9, 3)
    loss: Tensor = graph.losses()[0].op(graph.run(scene())["lifted"], student)
    assert loss.requires_grad


def test_a_projection_has_a_module_under_the_arrow() -> None:
    graph = colour_graph()
    wide = Graph(
        name="wide",
        nodes=dict(graph.nodes) | {"student": Node(kind="points", channels=7, on="cloud")},
        encode=graph.encode,
        lift=graph.lift,
        distill={"lifted -> student": op("distill", "mse", project="linear")},
    )
    nets = wide.build_nets()
    assert set(nets) == {"student", "lifted -> student"}
    values = wide.run(scene(), nets)
    loss = wide.losses()[0].op(values["lifted"], values["student"], net=nets["lifted -> student"])
    assert loss.requires_grad


def test_a_missing_sensor_is_named() -> None:
    given = scene()
    del given["cloud"]
    with pytest.raises(DataError, match="sensor `cloud`") as caught:
        colour_graph().run(given, targets=["lifted"])
    assert caught.value.wanted == "points from the scene"


def test_a_missing_module_is_named() -> None:
    with pytest.raises(DataError, match="student `student`"):
        colour_graph().run(scene(), targets=["student"])


def test_an_unknown_target_is_an_error() -> None:
    with pytest.raises(KeyError, match="nowhere"):
        colour_graph().run(scene(), targets=["nowhere"])


# ---- ops that are wrong by themselves ----------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Untyped:
    op: Literal["untyped"] = "untyped"
    settings: dict[str, int] = field(default_factory=dict[str, int])

    def __call__(self, cloud: int) -> Points:
        raise AssertionError


def test_an_op_whose_hints_name_no_value_is_at_fault_itself() -> None:
    with pytest.raises(BackendError, match="parameter `cloud`") as caught:
        Graph(
            name="x",
            nodes={"a": Node(kind="points"), "b": Node(kind="points", channels=1)},
            lift={"a -> b": Untyped()},
        )
    assert caught.value.exit_code == 5


PROGRAMS = [
    "from xmodal.config.runfile import check_file; check_file('configs/graphs/kitchen.yaml')",
    "from xmodal.config.schema import run_schema; run_schema()",
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_checking_does_not_load_torch(program: str) -> None:
    script = f"{program}\nimport sys; assert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
