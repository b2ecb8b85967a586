"""A third-party package adds ops and a teacher through entry points, in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parents[1] / "plugin"

GRAPH = """\
name: colours
nodes:
  cameras: {kind: image}
  cloud: {kind: points}
  maps: {kind: feature_map, channels: 3}
  lifted: {kind: points, channels: 3, on: cloud}
  student: {kind: points, channels: 3, on: cloud}
encode:
  cameras -> maps: {op: colour, frozen: true, cells: 2}
  cloud -> student: {op: point_mlp, width: 8, depth: 1, inputs: [xyz]}
lift:
  maps, cloud -> lifted: {op: points}
distill:
  lifted -> student: {op: mse}
"""

SOUND = """\
name: x
graph:
  name: sound
  nodes:
    mic: {kind: audio}
    loud: {kind: embedding, channels: 1}
  encode:
    mic -> loud: {op: loudness}
data: {scene: x}
"""

RUN = """
import json, sys
import torch
from lifting.cameras import Camera
from xmodal.edges import op_names
from xmodal.graph import Graph, load_graph
from xmodal.config.schema import graph_schema
from xmodal.values import Image, Points

graph = load_graph(sys.argv[1])
assert Graph.from_yaml(graph.to_yaml()) == graph
camera = Camera(
    K=torch.tensor([[8.0, 0, 8], [0, 8.0, 8], [0, 0, 1]]), T_world_cam=torch.eye(4), hw=(16, 16)
)
rgb = torch.zeros(3, 16, 16)
rgb[0, :8] = 1  # the upper half is red
xyz = torch.ones(8, 3)
xyz[:, 0] = torch.linspace(-0.7, 0.7, 8)
xyz[:, 1] = torch.tensor([-0.9, 0.9] * 4)
cloud = Points(xyz=xyz, offsets=torch.tensor([0, 8]))
values = graph.run(
    {"cameras": [Image(rgb=rgb, camera=camera, name="0")], "cloud": cloud}, graph.build_nets()
)
schema = json.dumps(graph_schema())
print(json.dumps({
    "ops": op_names("encode"),
    "teacher": graph.teachers()["maps"].op.teacher().fingerprint,
    "rows": values["lifted"].rows.tolist(),
    "student": list(values["student"].rows.shape),
    "schema": '"colour"' in schema and '"cells"' in schema,
}))
"""


def site(tmp_path: Path, entries: Mapping[str, str]) -> Path:
    """A folder that looks like site-packages with the plugin installed."""
    folder = tmp_path / "site"
    shutil.copytree(PLUGIN / "xmodal_example", folder / "xmodal_example")
    info = folder / "xmodal_example-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: xmodal-example\nVersion: 0.1.0\n")
    lines = [f"{name} = {value}" for name, value in entries.items()]
    (info / "entry_points.txt").write_text("\n".join(["[xmodal.ops]", *lines]) + "\n")
    return folder


def own_entries() -> dict[str, str]:
    with (PLUGIN / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)["project"]["entry-points"]["xmodal.ops"]


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = [str(folder), str(PLUGIN.parents[1])]
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(paths), OMP_NUM_THREADS="1")
    return subprocess.run(
        [sys.executable, *arguments], env=env, capture_output=True, text=True, check=False
    )


def check(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    file = folder / "f.yaml"
    file.write_text(text)
    return python(folder, "-c", "from xmodal.cli import main; main()", "check", str(file))


def test_a_teacher_of_another_package_is_lifted_and_distilled(tmp_path: Path) -> None:
    folder = site(tmp_path, own_entries())
    file = tmp_path / "graph.yaml"
    file.write_text(GRAPH)
    done = python(folder, "-c", RUN, str(file))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["ops"][-2:] == ["colour", "loudness"]
    assert len(result["teacher"]) == 64
    assert [round(row[0], 3) for row in result["rows"]] == [1.0, 0.0] * 4
    assert result["student"] == [8, 3]
    assert result["schema"]


def test_its_settings_are_checked_like_our_own(tmp_path: Path) -> None:
    folder = site(tmp_path, own_entries())
    done = check(
        folder, GRAPH.replace("cells: 2", "cell: 2").replace("channels: 3}", "channels: 4}")
    )
    assert done.returncode == 4
    assert "f.yaml:9, encode > cameras -> maps > cell" in done.stderr
    assert "did you mean `cells`?" in done.stderr
    done = check(folder, GRAPH.replace("cells: 2", "cells: 0"))
    assert done.returncode == 4
    assert "cells must be at least 1, not 0" in done.stderr


def test_a_sensor_that_the_data_lacks_is_named(tmp_path: Path) -> None:
    done = check(site(tmp_path, own_entries()), SOUND)
    assert done.returncode == 4
    assert "f.yaml:5, graph > nodes > mic" in done.stderr
    assert "a sensor of posed_rgbd data: image, depth, points" in done.stderr
    assert "`mic`, which is audio" in done.stderr


def test_without_the_package_its_op_is_unknown(tmp_path: Path) -> None:
    done = check(tmp_path, GRAPH)
    assert done.returncode == 4
    assert "the unknown op `colour`" in done.stderr


WRONG = {
    "no verb": ({"colour": "xmodal_example.ops:Colour"}, "VERB.NAME"),
    "unknown verb": ({"teach.colour": "xmodal_example.ops:Colour"}, "encode, lift, distill"),
    "our name": ({"encode.dino": "xmodal_example.ops:Colour"}, "xmodal itself already provides"),
    "no module": ({"encode.colour": "xmodal_gone.ops:Colour"}, "No module named"),
    "no attribute": ({"encode.colour": "xmodal_example.ops:Color"}, "an importable"),
    "no class": ({"encode.colour": "xmodal_example.ops:hashlib"}, "which is not a dataclass"),
    "no dataclass": ({"encode.colour": "xmodal_example.ops:Encoded"}, "which is not a dataclass"),
    "no call": ({"encode.colour": "xmodal_example.ops:ColourTeacher"}, "without `__call__`"),
    "other name": ({"encode.colour": "xmodal_example.ops:Loudness"}, 'Literal["colour"]'),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_package_that_is_wrong_is_named_and_exits_5(name: str, tmp_path: Path) -> None:
    entries, message = WRONG[name]
    done = check(site(tmp_path, entries), GRAPH)
    assert done.returncode == 5, done.stderr
    assert message in done.stderr
    assert "xmodal-example" in done.stderr
    assert "Traceback" not in done.stderr
