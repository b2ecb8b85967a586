"""Bad graph files: each gives the four-part report, with its line, and exit code 4."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from xmodal.config.problems import ConfigReportError
from xmodal.graph import load_graph

KITCHEN = """\
name: kitchen
nodes:
  cameras: {kind: image}
  depth: {kind: depth}
  cloud: {kind: points}
  maps: {kind: masks, channels: 1000}
  lifted: {kind: points, channels: 1000, on: cloud}
  student: {kind: points, channels: 1000, on: cloud}
encode:
  cameras -> maps: {op: embedded, frozen: true}
  cloud -> student: {op: sparse_unet, size: tiny, voxel_m: 0.03}
lift:
  maps, depth, cloud -> lifted: {op: points}
distill:
  lifted -> student: {op: kl}
"""

DINO = """\
name: two
nodes:
  cameras: {kind: image}
  cloud: {kind: points}
  other: {kind: points}
  maps: {kind: feature_map, channels: 384}
  lifted: {kind: points, channels: 384, on: cloud}
  student: {kind: points, channels: 384, on: cloud}
encode:
  cameras -> maps: {op: dino, frozen: true}
  cloud -> student: {op: point_mlp}
lift:
  maps, cloud -> lifted: {op: points}
distill:
  lifted -> student: {op: cosine}
"""


@dataclass(frozen=True)
class Bad:
    """One mistake: text replaced in a good file, and what the report must say about it."""

    old: str
    new: str
    key: str
    wanted: str
    got: str
    fix: str
    base: str = KITCHEN
    line: int | None = None  # from the first changed line if None


LAST = "  lifted -> student: {op: kl}\n"
GRID = "on: {range_m: 51.2, cell_m: 0.8}"
BAD = {
    # names and structure
    "unknown section": Bad("distill:", "distil:", "distil", "nodes", "distil", "`distill`"),
    "no name": Bad("name: kitchen\n", "", "name", "letters", "nothing", "name: kitchen", line=1),
    "name is a path": Bad("kitchen", "../../x", "name", "letters, digits", "../../x", "short name"),
    "name is a number": Bad("name: kitchen", "name: 3", "name", "a name", "3", "name: kitchen"),
    "nodes is a list": Bad(
        KITCHEN[KITCHEN.index("nodes:") : KITCHEN.index("encode:")],
        "nodes: [cameras]\n",
        "nodes",
        "a mapping of nodes",
        '["cameras"]',
        "cameras: {kind: image}",
    ),
    "edges is a list": Bad(
        "distill:\n" + LAST, "distill: [kl]\n", "distill", "mapping of edges", "kl", "a -> b"
    ),
    "edge is text": Bad("{op: kl}", "kl", "lifted -> student", "an op", '"kl"', "add `op:"),
    "node is text": Bad("{kind: depth}", "depth", "depth", "kind, channels, on", "depth", "{key"),
    "node name with a dash": Bad(
        "  depth: {kind", "  de-pth: {kind", "de-pth", "letters, digits and _", "de-pth", "plain"
    ),
    # keys and values of nodes
    "unknown node key": Bad(
        "student: {kind: points, channels",
        "student: {kind: points, chanels",
        "nodes > student > chanels",
        "kind, channels, on",
        "unknown key `chanels`",
        "did you mean `channels`?",
    ),
    "unknown kind": Bad("kind: depth", "kind: deph", "kind", "one of image", "deph", "`depth`"),
    "no kind": Bad("{kind: depth}", "{}", "depth > kind", "a value", "nothing", "add `kind"),
    "channels is text": Bad(
        "{kind: masks, channels: 1000}",
        '{kind: masks, channels: "1000"}',
        "maps > channels",
        "a whole number",
        'text "1000"',
        "without quotes",
    ),
    "channels is a fraction": Bad(
        "masks, channels: 1000", "masks, channels: 0.5", "channels", "whole number", "0.5", "change"
    ),
    "channels is zero": Bad(
        "masks, channels: 1000", "masks, channels: 0", "channels", "above 0", "0", "change"
    ),
    "grid with a misspelt key": Bad(
        "student: {kind: points, channels: 1000, on: cloud}",
        "student: {kind: bev, channels: 1000, on: {range_m: 51.2, cel_m: 0.8}}",
        "on > cel_m",
        "range_m, cell_m",
        "cel_m",
        "`cell_m`",
    ),
    "grid of half a cell": Bad(
        "student: {kind: points, channels: 1000, on: cloud}",
        "student: {kind: bev, channels: 1000, on: {range_m: 51.2, cell_m: 0.7}}",
        "student > on",
        "a whole number of cells",
        "0.7",
        "change the value",
    ),
    # ops and their settings
    "unknown op": Bad(
        "{op: sparse_unet,", "{op: sparse_net,", "op", "one of", "sparse_net", "`sparse_unet`?"
    ),
    "op of another verb": Bad("{op: points}", "{op: kl}", "op", "points", "`kl`", "of distill"),
    "no op": Bad("{op: kl}", "{weight: 1.0}", "lifted -> student", "an op", "no `op`", "add `op:"),
    "op is a list": Bad("{op: kl}", "{op: [kl]}", "op", "cosine", '["kl"]', "the name of an op"),
    "import path": Bad("{op: kl}", "{op: os.system}", "op", "one of", "os.system", "never import"),
    "class path": Bad("{op: kl}", "{op: 'torch:nn'}", "op", "one of", "torch:nn", "never import"),
    "target key": Bad(
        "{op: kl}", "{op: kl, _target_: os.system}", "_target_", "weight", "_target_", "never code"
    ),
    "unknown setting": Bad(
        "voxel_m: 0.03", "voxel: 0.03", "> voxel", "voxel_m", "key `voxel`", "`voxel_m`?"
    ),
    "setting of a wrong type": Bad(
        "voxel_m: 0.03", "voxel_m: 3cm", "voxel_m", "a number", "3cm", "without quotes or unit"
    ),
    "setting is null": Bad("voxel_m: 0.03", "voxel_m: ~", "voxel_m", "a number", "nothing", "drop"),
    "setting out of range": Bad(
        "voxel_m: 0.03", "voxel_m: -1", "student", "above 0", "-1", "change the value"
    ),
    "unknown choice": Bad(
        "size: tiny", "size: tyni", "size", "one of tiny, small, base", "tyni", "`tiny`?"
    ),
    "teacher that trains": Bad(
        "frozen: true", "frozen: false", "frozen", "true", "false", "write true"
    ),
    "old boolean": Bad("frozen: true", "frozen: yes", "frozen", "true", "yes", "write true"),
    # arrows
    "no arrow": Bad(LAST, "  lifted: {op: kl}\n", "lifted", "an arrow", "lifted", "-> target"),
    "unicode arrow": Bad("lifted -> st", "lifted → st", "lifted", "an arrow", "→", "ASCII arrow"),
    "two targets": Bad(
        "cloud -> student", "cloud -> student, lifted", "student", "an arrow", "student,", "-> t"
    ),
    "unknown source": Bad(
        "maps, depth, cloud", "maps, deph, cloud", "deph", "one of", "node `deph`", "`depth`?"
    ),
    "unknown target": Bad(
        "cloud -> student", "cloud -> studnet", "studnet", "one of", "`studnet`", "`student`?"
    ),
    "undeclared node": Bad(
        "lifted -> student", "zzz -> student", "zzz", "one of", "`zzz`", "declare `zzz"
    ),
    "duplicate edge": Bad(
        LAST, LAST + "  lifted->student: {op: kl}\n", "lifted->student", "once", "again", "remove",
        line=16,
    ),
    "duplicate source": Bad(
        "maps, depth, cloud", "maps, maps, cloud", "maps", "different", "more than once", "once"
    ),
    "two producers": Bad(
        "distill:",
        "  maps, cloud -> lifted: {op: points}\ndistill:",
        "maps, cloud -> lifted",
        "one edge that makes `lifted`",
        "a second one, beside `maps, depth, cloud -> lifted`",
        "a node of its own",
        line=14,
    ),
    # ports
    "wrong kind on a port": Bad(
        "cameras -> maps", "depth -> maps", "depth -> maps", "image", "which is depth", "kinds"
    ),
    "port left empty": Bad(
        "maps, depth, cloud -> lifted", "maps, depth -> lifted", "lifted", "points", "nothing for",
        "add the source",
    ),
    "too many sources": Bad(
        "cloud -> student", "cloud, depth -> student", "student", "points", "is depth", "kinds"
    ),
    "target of a wrong kind": Bad(
        "lifted: {kind: points, channels: 1000, on: cloud}",
        "lifted: {kind: gaussians, channels: 1000, on: cloud}",
        "maps, depth, cloud -> lifted",
        "points, which `points` gives",
        "`lifted`, which is gaussians",
        "{kind: points}",
        line=13,
    ),
    # widths
    "teacher gives another width": Bad(
        "masks, channels: 1000", "masks, channels: 512", "channels", "1000, the width", "512",
        "write channels: 1000",
    ),
    "lift changes the width": Bad(
        "lifted: {kind: points, channels: 1000",
        "lifted: {kind: points, channels: 512",
        "lifted > channels",
        "channels: 1000, as `maps` has",
        "512",
        "write channels: 1000",
    ),
    "student of another width": Bad(
        "student: {kind: points, channels: 384",
        "student: {kind: points, channels: 64",
        "lifted -> student",
        "equal channels",
        "`lifted` has 384, `student` has 64",
        "project: linear",
        base=DINO.replace("  other: {kind: points}\n", ""),
        line=14,
    ),
    "no width": Bad(
        "maps: {kind: masks, channels: 1000}", "maps: {kind: masks}", "maps", "`channels`",
        "nothing", "channels: ...",
    ),
    "sensor with a width": Bad(
        "cloud: {kind: points}", "cloud: {kind: points, channels: 3}", "cloud", "makes `cloud`",
        "none", "for a sensor",
    ),
    "depth with a width": Bad(
        "depth: {kind: depth}", "depth: {kind: depth, channels: 1}", "depth", "has `channels`",
        "none", "for a sensor",
    ),
    # supports
    "unknown support": Bad(
        "student: {kind: points, channels: 1000, on: cloud}",
        "student: {kind: points, channels: 1000, on: cluod}",
        "student > on",
        "cloud",
        "unknown node `cluod`",
        "did you mean `cloud`?",
    ),
    "support of a wrong kind": Bad(
        "student: {kind: points, channels: 1000, on: cloud}",
        "student: {kind: points, channels: 1000, on: cameras}",
        "student > on",
        "of kind points",
        "`cameras`, which is image",
        "same kind",
    ),
    "support on itself": Bad(
        "student: {kind: points, channels: 1000, on: cloud}",
        "student: {kind: points, channels: 1000, on: student}",
        "student > on",
        "does not depend on this node",
        "leads back",
        "sensor's node",
    ),
    "support that is no source": Bad(
        "student: {kind: points, channels: 384, on: cloud}",
        "student: {kind: points, channels: 384, on: other}",
        "student > on",
        "a source of `cloud -> student`",
        "works on `cloud`",
        "add `other` to the sources",
        base=DINO,
    ),
    "support without effect": Bad(
        "depth: {kind: depth}", "depth: {kind: depth, on: cloud}", "depth > on", "no `on` on depth",
        "no effect", "remove it",
    ),
    "other voxels than the lift makes": Bad(
        "distill:",
        "  lifted -> cells: {op: voxels, voxel_m: 0.1}\ndistill:",
        "cells > on > voxel_m",
        "voxel_m: 0.1, as `lifted -> cells` makes",
        "0.2",
        "write 0.1",
        base=KITCHEN.replace(
            "encode:", "  cells: {kind: voxels, channels: 1000, on: {voxel_m: 0.2}}\nencode:"
        ),
        line=9,
    ),
    "points on a grid": Bad(
        "student: {kind: points, channels: 1000, on: cloud}",
        f"student: {{kind: points, channels: 1000, {GRID}}}",
        "student > on",
        "a node",
        "grid settings",
        "voxel_m",
    ),
    "teacher on other points": Bad(
        "cloud -> student: {op: point_mlp}",
        "other -> student: {op: point_mlp}",
        "lifted -> student",
        "equal supports",
        "`lifted` on `cloud`, `student` on `other`",
        "`maps, other -> maps_on_other: {op: points}` under lift",
        base=DINO.replace("384, on: cloud}\nenc", "384, on: other}\nenc"),
        line=15,
    ),
    "distill before lifting": Bad(
        LAST,
        "  maps -> student: {op: kl}\n",
        "maps -> student",
        "equal kinds",
        "`maps` is masks, `student` is points",
        "add `maps, depth, cloud -> maps_on_cloud: {op: points}` under lift",
    ),
    # the whole
    "cycle": Bad(
        "  maps, depth, cloud -> lifted: {op: points}\n",
        "  maps, depth, student -> lifted: {op: points}\n  lifted -> cloud: {op: superpoints}\n",
        "cloud",
        "no node that depends on itself",
        "cloud -> student -> lifted -> cloud",
        "remove one of these edges",
        line=14,
    ),
    "node without producer": Bad(
        "  cameras -> maps: {op: embedded, frozen: true}\n",
        "",
        "nodes > maps",
        "an edge that makes `maps`",
        "masks comes from no sensor",
        "add `... -> maps",
        line=6,
    ),
    "student without producer": Bad(
        "  cloud -> student: {op: sparse_unet, size: tiny, voxel_m: 0.03}\n",
        "",
        "nodes > student",
        "an edge that makes `student`",
        "none",
        "add `... -> student",
        line=8,
    ),
    "unused node": Bad(
        "encode:", "  mic: {kind: audio}\nencode:", "mic", "an edge uses", "no edge", "remove"
    ),
    "student without teacher": Bad(
        "distill:\n" + LAST,
        "",
        "cloud -> student",
        "a teacher for the student",
        "no distill edge",
        "TEACHER -> student",
        line=11,
    ),
    "teaching a lifted node": Bad(
        "distill:\n" + LAST,
        "distill:\n" + LAST + "  student -> lifted: {op: mse}\n",
        "student -> lifted",
        "a student with weights",
        "nothing to train",
        "op: sparse_unet",
        line=16,
    ),
    "teaching itself": Bad(
        LAST, LAST + "  student -> student: {op: mse}\n", "student -> student", "a teacher and",
        "teaches itself", "lifted teacher", line=16,
    ),
    "learning from a sensor": Bad(
        LAST, LAST + "  cloud -> student: {op: mse}\n", "cloud -> student", "with features",
        "`cloud`, a sensor", "that a teacher", line=16,
    ),
    "cosine on probabilities": Bad(
        "{op: kl}", "{op: cosine}", "op", "unit or raw for `cosine`", "simplex rows of `embedded`",
        "use {op: kl}, or add `allow_simplex: true`",
    ),
    "kl on directions": Bad(
        "{op: cosine}", "{op: kl}", "op", "simplex for `kl`", "unit rows of `dino`", "op: cosine",
        base=DINO.replace("  other: {kind: points}\n", ""),
    ),
}  # fmt: skip


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "graph.yaml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_a_bad_graph_is_reported_in_four_parts_with_its_line(bad: Bad, tmp_path: Path) -> None:
    assert bad.base.count(bad.old) == 1
    text = bad.base.replace(bad.old, bad.new)
    pairs = zip(bad.base.splitlines(), text.splitlines(), strict=False)
    changed = next((i for i, (a, b) in enumerate(pairs, 1) if a != b), 0)
    line = bad.line or changed

    with pytest.raises(ConfigReportError) as caught:
        load_graph(write(tmp_path, text))

    error = caught.value
    assert error.exit_code == 4
    here = [p for p in error.problems if p.line == line and bad.key in p.key]
    assert here, str(error)
    assert any(bad.wanted in p.wanted and bad.got in p.got and bad.fix in p.fix for p in here), str(
        error
    )
    message = str(error)
    assert f"graph.yaml:{line}, " in message
    assert all(part in message for part in ("\n  wanted: ", "\n  got:    ", "\n  fix:    "))


@pytest.mark.parametrize(
    "name", [n for n in BAD if n not in ("no kind", "nodes is a list", "cycle", "edges is a list")]
)
def test_one_mistake_gives_few_errors(name: str, tmp_path: Path) -> None:
    bad = BAD[name]
    with pytest.raises(ConfigReportError) as caught:
        load_graph(write(tmp_path, bad.base.replace(bad.old, bad.new)))
    assert len(caught.value.problems) <= 3, str(caught.value)


def test_the_table_is_large_enough() -> None:
    assert len(BAD) >= 60


@pytest.mark.parametrize("base", [KITCHEN, DINO.replace("  other: {kind: points}\n", "")])
def test_the_files_that_the_table_breaks_are_good(base: str, tmp_path: Path) -> None:
    assert load_graph(write(tmp_path, base)).nodes


def test_all_mistakes_come_in_one_report(tmp_path: Path) -> None:
    text = KITCHEN.replace("kind: depth", "kind: deph").replace("voxel_m", "voxel")
    text = text.replace("{op: points}", "{op: point}").replace("  lifted -> st", "  lifed -> st")
    with pytest.raises(ConfigReportError) as caught:
        load_graph(write(tmp_path, text))
    assert [p.line for p in caught.value.problems] == [4, 11, 13, 15]
    assert str(caught.value).startswith("Found 4 errors in ")


def test_ops_of_later_releases_are_all_named_at_once(tmp_path: Path) -> None:
    text = """\
name: clip_to_all
nodes:
  cameras:    {kind: image}
  sweep:      {kind: points}
  mic:        {kind: audio}
  imu:        {kind: imu}
  clip:       {kind: feature_map, channels: 512}
  clip_bev:   {kind: bev,         channels: 512, on: {range_m: 51.2, cell_m: 0.8}}
  lidar_bev:  {kind: bev,         channels: 512, on: {range_m: 51.2, cell_m: 0.8}}
  clip_scene: {kind: embedding,   channels: 512}
  sound:      {kind: embedding,   channels: 512}
  motion:     {kind: embedding,   channels: 512}
encode:
  cameras -> clip:         {op: openclip, model: ViT-B-16, frozen: true}
  sweep -> lidar_bev:      {op: pillars}
  mic -> sound:            {op: audio_cnn}
  imu -> motion:           {op: imu_tcn}
lift:
  clip, sweep -> clip_bev: {op: pillar_bev}
  clip -> clip_scene:      {op: pool}
distill:
  clip_bev -> lidar_bev:   {op: cosine}
  clip_scene -> sound:     {op: cosine}
  clip_scene -> motion:    {op: cosine, weight: 0.5}
"""
    with pytest.raises(ConfigReportError) as caught:
        load_graph(write(tmp_path, text))
    names = ["pillars", "pillar_bev", "pool"]
    assert [p.got for p in caught.value.problems] == [f"the unknown op `{name}`" for name in names]
    assert [p.line for p in caught.value.problems] == [15, 19, 20]
