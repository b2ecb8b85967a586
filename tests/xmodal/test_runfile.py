from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmodal.config.overrides import apply_overrides, parse_overrides
from xmodal.config.reader import parse_yaml
from xmodal.config.run_parts import Augmentation, Data, Evaluation, Optimiser, Query, Splits
from xmodal.config.runfile import RunFile, check_file, load_run
from xmodal.errors import ConfigError, UsageError
from xmodal.graph import load_graph

ROOT = Path(__file__).parents[2]
KITCHEN = ROOT / "configs/graphs/kitchen.yaml"


def run_of(**parts: Any) -> RunFile:
    return RunFile(
        **({"name": "x", "graph": load_graph(KITCHEN), "data": Data(scene="scene")} | parts)
    )


def kitchen_run() -> str:
    text = (ROOT / "configs/runs/kitchen.yaml").read_text()
    return text.replace("../graphs", str(KITCHEN.parent))


@pytest.mark.parametrize(
    "file", sorted((ROOT / "configs/runs").glob("*.yaml")), ids=lambda f: f.stem
)
def test_every_run_file_loads_and_writes_itself_back(file: Path, tmp_path: Path) -> None:
    run = load_run(file)
    again = tmp_path / "run.yaml"
    again.write_text(run.to_yaml())
    assert load_run(again) == run
    assert str(check_file(file)).splitlines()[0] == f"{file}: a valid run file"


@settings(deadline=None, max_examples=25)
@given(
    scene=st.lists(st.text("ab/c.d -é", min_size=1, max_size=9).filter(str.strip), min_size=1,
                   max_size=3, unique_by=lambda text: Path(text).name),
    steps=st.integers(1, 10**9),
    lr=st.floats(1e-12, 1e3, allow_subnormal=False),
    seed=st.integers(0, 2**63),
    threshold=st.floats(1e-6, 1),
    names=st.lists(st.text(max_size=6).filter(lambda text: "$" not in text), max_size=3),
)  # fmt: skip
def test_a_run_file_written_and_read_is_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    scene: list[str],
    steps: int,
    lr: float,
    seed: int,
    threshold: float,
    names: list[str],
) -> None:
    run = run_of(
        data=Data(scene=scene[0] if len(scene) == 1 else tuple(scene), max_frames=4),
        optimiser=Optimiser(
            steps=steps, lr=lr, warmup_steps=0, augment=Augmentation(rotate_rad=lr, up="-y")
        ),
        seed=seed,
        query=Query(threshold=threshold),
        evaluation=Evaluation(names=tuple(names), tasks=("localisation",)),
    )
    file = tmp_path_factory.mktemp("run") / "run.yaml"
    file.write_text(run.to_yaml(), encoding="utf-8")
    assert load_run(file) == run


def test_the_optimiser_is_what_training_takes() -> None:
    """The run file keeps these settings where torch is not needed; they must not drift apart."""
    from xmodal.train.crops import Augment
    from xmodal.train.loop import TrainOptions

    own = {f.name: getattr(Optimiser(), f.name) for f in fields(Optimiser) if f.name != "augment"}
    theirs = {f.name: getattr(TrainOptions(), f.name) for f in fields(TrainOptions)}
    assert {name: theirs[name] for name in own} == own
    assert set(theirs) - set(own) == {"augment", "seed", "device", "stages"}
    for part in fields(Augment):
        assert getattr(Augment(), part.name) == getattr(Augmentation(), part.name)
    assert len(fields(Augment)) == len(fields(Augmentation))


def test_scenes_split_by_folder_name() -> None:
    run = run_of(data=Data(scene=("x/a", "x/b", "y/c")), splits=Splits(val=("b",), test=("c",)))
    assert run.scenes("train") == (Path("x/a"),)
    assert run.scenes("val") == (Path("x/b"),)
    assert run.scenes("test") == (Path("y/c"),)


def test_a_pattern_stands_for_the_folders_it_matches(tmp_path: Path) -> None:
    for name in ("train-1", "train-0", "test-0"):
        (tmp_path / name).mkdir()
    (tmp_path / "notes.txt").write_text("not a scene")
    run = run_of(data=Data(scene=f"{tmp_path}/*"), splits=Splits(test=("test-*",)))
    assert run.data.is_many
    assert [p.name for p in run.scenes("train")] == ["train-0", "train-1"]
    assert [p.name for p in run.scenes("test")] == ["test-0"]
    one = run.of_scene(tmp_path / "train-0")
    assert not one.data.is_many
    assert one.data.scenes == (tmp_path / "train-0",)
    assert run_of(data=Data(scene=f"{tmp_path}/none-*")).data.scenes == ()


def test_stages_are_read_and_counted(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    text = kitchen_run()
    file.write_text(
        text + "stages:\n- {name: first, steps: 5, train: [student]}\n"
        "- {name: second, steps: 7, edges: ['lifted->student'], lr: 1e-3}\n"
    )
    run = load_run(file)
    assert [stage.name for stage in run.stages] == ["first", "second"]
    assert run.steps == 12
    again = tmp_path / "again.yaml"
    again.write_text(run.to_yaml())
    assert load_run(again) == run


@pytest.mark.parametrize(
    ("stage", "wrong"),
    [
        ("{name: a, steps: 0}", "a number above 0"),
        ("{name: a, steps: 5, train: [studnet]}", "student"),
        ("{name: a, steps: 5, edges: [lifted -> nobody]}", "lifted -> student"),
        ("{name: a, steps: 5, epochs: 3}", "epochs"),
        ("{name: a, steps: 5, inherit: {studnet: student}}", "student"),
        ("{name: a, steps: 5, inherit: {student: nobody}}", "nobody"),
        ("{name: a, steps: 5}\n- {name: a, steps: 5}", "different names"),
    ],
)
def test_stages_that_are_wrong_are_refused(stage: str, wrong: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    text = kitchen_run()
    file.write_text(f"{text}stages:\n- {stage}\n")
    with pytest.raises(ConfigError, match=wrong):
        load_run(file)


def test_the_graph_may_stand_in_the_file(tmp_path: Path) -> None:
    graph = "".join(f"  {line}\n" for line in KITCHEN.read_text().splitlines())
    file = tmp_path / "run.yaml"
    file.write_text(f"name: x\ngraph:\n{graph}data: {{scene: somewhere}}\n")
    assert load_run(file).graph == load_graph(KITCHEN)


# ---- overrides -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("optimiser.steps=100", lambda run: run.optimiser.steps == 100),
        ("optimiser.lr=1e-3", lambda run: run.optimiser.lr == 1e-3),
        ("optimiser.augment.rotate_rad=0.5", lambda run: run.optimiser.augment.rotate_rad == 0.5),
        ("optimiser.augment.shift=false", lambda run: run.optimiser.augment.shift is False),
        ("seed=7", lambda run: run.seed == 7),
        ("name=other", lambda run: run.name == "other"),
        ("name='no'", lambda run: run.name == "no"),
        ("data.max_frames=4", lambda run: run.data.max_frames == 4),
        ("data.max_frames=null", lambda run: run.data.max_frames is None),
        ("data.max_side_px=640", lambda run: run.data.max_side_px == 640),
        ("data.scene=a=b", lambda run: run.data.scene == "a=b"),
        ("graph.name=mine", lambda run: run.graph.name == "mine"),
        (
            "graph.distill.lifted->student.weight=0.5",
            lambda run: run.graph.losses()[0].op.weight == 0.5,
        ),
        (
            "graph.encode.cloud -> student.size=small",
            lambda run: run.graph.students()["student"].op.size == "small",
        ),
    ],
)
@pytest.mark.parametrize("inline", [False, True])
def test_overrides_are_typed_scalars(
    override: str, read: Any, inline: bool, tmp_path: Path
) -> None:
    file = ROOT / "configs/runs/kitchen.yaml"
    if inline:
        resolved = tmp_path / "run.yaml"
        resolved.write_text(load_run(file).to_yaml())
        file = resolved
    assert not read(load_run(file)) or override == "data.max_frames=null"
    assert read(load_run(file, [override]))


def test_overrides_leave_the_document_alone() -> None:
    document = parse_yaml("a: {b: 1}\n", "f.yaml")
    changed, problems = apply_overrides(document, parse_overrides(["a.b=2", "c.d=x"]))
    assert not problems
    assert changed.data == {"a": {"b": 2}, "c": {"d": "x"}}
    assert document.data == {"a": {"b": 1}}


@pytest.mark.parametrize("text", ["steps", "=3", "optimiser.=3", ".steps=3", "a..b=1", ""])
def test_an_override_that_is_none_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="key=value") as caught:
        parse_overrides([text])
    assert caught.value.exit_code == 2


def test_a_summary_names_what_a_run_does() -> None:
    text = str(check_file(ROOT / "configs/runs/kitchen.yaml"))
    assert "cameras -> maps: embedded  ->  masks x 1000, teacher" in text
    assert "data/7scenes_redkitchen (posed_rgbd)" in text
    assert "800 steps, lr 0.01, seed 0" in text
