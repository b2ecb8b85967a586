"""Bad run files and bad overrides: the same report, with the line or the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from xmodal.config.problems import ConfigReportError
from xmodal.config.runfile import check_file, load_run
from xmodal.errors import ConfigError

ROOT = Path(__file__).parents[2]
GRAPH = (ROOT / "configs/graphs/kitchen.yaml").read_text()
RUN = """\
name: kitchen
graph: graph.yaml
data:
  scene: [scenes/a, scenes/b]
  voxel_m: 0.02
splits: {val: [b]}
optimiser:
  steps: 600
  lr: 0.002
  augment: {rotate_rad: 0.1}
seed: 0
query: {threshold: 0.5}
evaluation:
  tasks: [localisation]
"""

# name: (old, new, line, key, wanted, got, fix)
BAD = {
    "unknown key": ("seed: 0", "sed: 0", 11, "sed", "name, graph", "`sed`", "`seed`?"),
    "out is no key": ("seed: 0", "out: ../../x", 11, "out", "name, graph", "`out`", "remove it"),
    "name is a path": ("name: kitchen", "name: ../../x", 1, "name", "letters", "../../x", "short"),
    "no data": ("data:\n  scene: [scenes/a, scenes/b]\n  voxel_m: 0.02\n", "", 1, "data",
                "a value for `data`", "nothing", "add `data"),
    "no graph": ("graph: graph.yaml\n", "", 1, "graph", "`graph`", "nothing", "add `graph"),
    "graph is a number": ("graph.yaml", "3", 2, "graph", "a mapping", "3", "nodes"),
    "graph is missing": ("graph.yaml", "gone.yaml", 2, "graph", "relative to this file",
                         "no file", "correct the path"),
    "graph is a variable": ("graph.yaml", "$HOME/g.yaml", 2, "graph", "a plain value", "$HOME",
                            "never expanded"),
    "no scene": ("[scenes/a, scenes/b]", "[]", 4, "scene", "at least 1", "[]", "change"),
    "scene is empty": ("[scenes/a, scenes/b]", '""', 4, "scene", "at least 1", '""', "change"),
    "scene is a number": ("[scenes/a, scenes/b]", "3", 4, "scene", "text", "3", "change"),
    "scene from the shell": ("[scenes/a,", "[$HOME/a,", 4, "scene > 0", "plain", "$HOME",
                             "never expanded"),
    "scenes of one name": ("scenes/b]", "other/a, scenes/b]", 4, "scene > 1", "different names",
                           "`a` twice", "rename"),
    "voxel with a unit": ("voxel_m: 0.02", "voxel_m: 2cm", 5, "voxel_m", "a number", "2cm",
                          "without quotes or unit"),
    "voxel of a kilometre": ("voxel_m: 0.02", "voxel_m: 1000", 5, "voxel_m", "at most 10", "1000",
                             "change"),
    "unknown format": ("voxel_m: 0.02", "format: nuscenes", 5, "format", "posed_rgbd", "nuscenes",
                       "one of them"),
    "split of no scene": ("{val: [b]}", "{val: [c]}", 6, "splits > val > 0", "a, b", "`c`",
                          "data.scene"),
    "scene in two splits": ("{val: [b]}", "{val: [b], test: [b]}", 6, "splits > test > 0",
                            "one split", "`b` in val", "keep one"),
    "nothing to train on": ("{val: [b]}", "{val: [a, b]}", 6, "splits", "at least one", "none",
                            "fewer"),
    "split is text": ("{val: [b]}", "{val: b}", 6, "splits > val", "a list", "b", "change"),
    "steps is a fraction": ("steps: 600", "steps: 0.5", 8, "steps", "a whole number", "0.5", "ch"),
    "no steps": ("steps: 600", "steps: 0", 8, "steps", "above 0", "0", "change"),
    "steps is text": ("steps: 600", "steps: '600'", 8, "steps", "a whole number", "600", "quotes"),
    "misspelt rate": ("lr: 0.002", "lrr: 0.002", 9, "lrr", "steps, crop_points", "`lrr`", "`lr`?"),
    "rate below zero": ("lr: 0.002", "lr: -1e-3", 9, "lr", "above 0", "-0.001", "change"),
    "rate is not a number": ("lr: 0.002", "lr: .nan", 9, "lr", "finite", ".nan", "write a number"),
    "nested key": ("{rotate_rad", "{rotate_deg", 10, "augment > rotate_deg", "shift, rotate_rad",
                   "rotate_deg", "`rotate_rad`?"),
    "nested list": ("{rotate_rad: 0.1}", "[0.1]", 10, "augment", "a mapping", "[0.1]", "change"),
    "seed below zero": ("seed: 0", "seed: -1", 11, "seed", "at least 0", "-1", "change"),
    "seed with a zero": ("seed: 0", "seed: 007", 11, "seed", "leading zeros", "007", "write 7"),
    "threshold above one": ("0.5}", "1.5}", 12, "threshold", "at most 1", "1.5", "change"),
    "unknown task": ("[localisation]", "[localization]", 14, "tasks > 0", "segmentation",
                     "localization", "`localisation`?"),
    "tasks is text": ("[localisation]", "localisation", 14, "tasks", "a list", "local", "change"),
    "duplicate key": ("seed: 0", "name: x", 11, "name", "`name` once", "line 1", "keep one"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "graph.yaml").write_text(GRAPH)
    (tmp_path / "run.yaml").write_text(RUN)
    return tmp_path


def test_the_file_that_the_table_breaks_is_good(folder: Path) -> None:
    assert load_run(folder / "run.yaml").optimiser.steps == 600
    assert len(BAD) >= 30


@pytest.mark.parametrize("name", BAD)
def test_a_bad_run_file_is_reported_with_its_line(name: str, folder: Path) -> None:
    old, new, line, key, wanted, got, fix = BAD[name]
    assert RUN.count(old) == 1
    file = folder / "bad.yaml"
    file.write_text(RUN.replace(old, new))
    with pytest.raises(ConfigReportError) as caught:
        load_run(file)
    error = caught.value
    assert error.exit_code == 4
    assert any(
        p.line == line and key in p.key and wanted in p.wanted and got in p.got and fix in p.fix
        for p in error.problems
    ), str(error)
    assert len(error.problems) == 1, str(error)
    assert f"bad.yaml:{line}, " in str(error)
    with pytest.raises(ConfigReportError):
        check_file(file)


def test_mistakes_of_a_graph_beside_the_run_have_the_lines_of_that_file(folder: Path) -> None:
    (folder / "graph.yaml").write_text(GRAPH.replace("op: kl", "op: ql"))
    with pytest.raises(ConfigReportError, match="the unknown op `ql`") as caught:
        load_run(folder / "run.yaml")
    assert "graph.yaml:16, distill > lifted -> student > op" in str(caught.value)


def test_a_run_file_that_names_itself_as_its_graph_ends_in_a_report(folder: Path) -> None:
    file = folder / "loop.yaml"
    file.write_text(RUN.replace("graph.yaml", "loop.yaml"))
    with pytest.raises(ConfigReportError, match="the unknown key `graph`"):
        load_run(file)


def test_mistakes_of_an_inline_graph_and_of_the_run_are_one_report(folder: Path) -> None:
    inline = "".join(f"  {line}\n" for line in GRAPH.replace("op: kl", "op: ql").splitlines())
    text = RUN.replace("graph: graph.yaml\n", f"graph:\n{inline}").replace("lr: 0.002", "lr: -1")
    file = folder / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ConfigReportError) as caught:
        load_run(file)
    assert [p.key for p in caught.value.problems] == [
        "graph > distill > lifted -> student > op",
        "optimiser > lr",
    ]
    assert [text.splitlines()[(p.line or 0) - 1].strip()[:4] for p in caught.value.problems] == [
        "lift",
        "lr: ",
    ]


def test_a_second_sensor_of_a_kind_is_not_in_the_data(folder: Path) -> None:
    file = folder / "bad.yaml"
    file.write_text("""\
name: kitchen
graph:
  name: g
  nodes:
    cameras: {kind: image}
    cloud: {kind: points}
    sweep: {kind: points}
    maps: {kind: masks, channels: 1000}
    lifted: {kind: points, channels: 1000, on: cloud}
    more: {kind: points, channels: 1000, on: sweep}
  encode:
    cameras -> maps: {op: embedded}
  lift:
    maps, cloud -> lifted: {op: points}
    maps, sweep -> more: {op: points}
data: {scene: x}
""")
    with pytest.raises(ConfigReportError) as caught:
        load_run(file)
    (problem,) = caught.value.problems
    assert problem.line == 7
    assert problem.wanted == "one points sensor, as posed_rgbd data has"
    assert problem.got == "`sweep` beside `cloud`"


OVERRIDES = {
    "unknown key": ("optimiser.stpes=3", "optimiser > stpes", "unknown key", "`steps`?"),
    "unknown section": ("optimizer.steps=3", "optimizer", "unknown key", "`optimiser`?"),
    "wrong type": ("optimiser.steps=many", "optimiser > steps", "many", "without quotes"),
    "out of range": ("optimiser.lr=0", "optimiser > lr", "0", "change the value"),
    "a list": ("data.scene=other", "data > scene", "scenes/a", "scalars only"),
    "a section": ("optimiser=3", "optimiser", "600", "scalars only"),
    "below a scalar": ("seed.x=3", "seed", "0", "scalars only"),
    "a list as text": ("evaluation.names=[a]", "evaluation > names", "[a]", "change the value"),
    "an op": ("graph.distill.lifted -> student.op=os.system", "op", "os.system", "never import"),
    "a width": ("graph.nodes.maps.channels=512", "maps > channels", "512", "channels: 1000"),
    "an infinity": ("optimiser.lr=.inf", "optimiser > lr", ".inf", "without quotes"),
}


@pytest.mark.parametrize("name", OVERRIDES)
def test_a_bad_override_is_reported_as_the_command_line(name: str, folder: Path) -> None:
    override, key, got, fix = OVERRIDES[name]
    with pytest.raises(ConfigReportError) as caught:
        load_run(folder / "run.yaml", [override])
    error = caught.value
    assert error.exit_code == 4
    assert any(
        key in p.key and got in p.got and fix in p.fix and p.line == 0 for p in error.problems
    ), str(error)
    assert "command line, " in str(error)


@pytest.mark.parametrize("text", ["", "a: 1\n", "[1, 2]\n", "hello\n", "name: x\n"])
def test_a_file_that_is_neither_graph_nor_run_says_what_both_are(text: str, tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"a graph file .*nodes.* or a run file .*data") as caught:
        check_file(file)
    assert caught.value.exit_code == 4
