"""The training loop: it learns, it resumes bit for bit, it refuses what it cannot do."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detectors.point_mlp import PointMLP
from detectors.point_student import Encoded
from xmodal.edges.distill.cosine import Cosine
from xmodal.edges.distill.kl import Kl
from xmodal.edges.distill.mse import Mse
from xmodal.edges.encode.point_mlp import PointMlp
from xmodal.edges.encode.sparse_unet import SparseUnet
from xmodal.errors import CheckpointError, DataError, UsageError
from xmodal.train.checkpoint import checkpoints, load_checkpoint
from xmodal.train.loop import Augment, Distill, Student, TrainOptions, fit, predict
from xmodal.values import Points

CHANNELS = 6
OPTIONS = TrainOptions(
    steps=6,
    crop_points=150,
    crops=2,
    loss_rows=60,
    warmup_steps=2,
    log_every=1,
    checkpoint_every=100,
)
LOCAL = ("rgb", "normals", "height")
UNET = SparseUnet(voxel_m=0.1, inputs=LOCAL)
MLP = PointMlp(width=32, depth=2, inputs=LOCAL)


def room(num: int = 400, seed: int = 0) -> dict[str, Points]:
    """A bumpy coloured floor, and teacher rows that follow its colour; one in ten unobserved."""
    generator = torch.Generator().manual_seed(seed)
    xyz = torch.rand(num, 3, generator=generator) * torch.tensor([2.0, 2.0, 0.1])
    rgb = torch.rand(num, 3, generator=generator)
    cloud = Points(
        xyz=xyz,
        offsets=torch.tensor([0, num]),
        rgb=rgb,
        normals=torch.tensor([[0.0, 0.0, 1.0]]).repeat(num, 1),
    )
    rows = (rgb @ torch.randn(3, CHANNELS, generator=generator) * 3).softmax(dim=1)
    lifted = replace(
        cloud,
        rows=rows,
        valid=torch.rand(num, generator=generator) > 0.1,
        weight=torch.rand(num, generator=generator) * 5 + 0.1,
    )
    return {"cloud": cloud, "lifted": lifted}


def student(op: SparseUnet | PointMlp = MLP, space: Any = "simplex") -> Student:
    torch.manual_seed(3)
    return Student(op, op.build(channels=CHANNELS, space=space))


KL = Distill(Kl(), "lifted", "student")


def train(
    out: Path,
    made: Student | None = None,
    *,
    options: TrainOptions = OPTIONS,
    scenes: list[dict[str, Points]] | None = None,
    edges: list[Distill] | None = None,
    **rest: Any,
) -> tuple[Student, list[dict[str, Any]]]:
    made = made or student()
    result = fit({"student": made}, edges or [KL], scenes or [room()], options, out, **rest)
    return made, result.history


def state(made: Student) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in made.net.state_dict().items()}


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class StopHereError(Exception):
    """Ends a run from its progress callback, as a crash would."""


def stop_at(step: int, act: Callable[[], None] | None = None) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done == step:
            if act is None:
                raise StopHereError
            act()

    return progress


@pytest.mark.parametrize("op", [MLP, UNET], ids=["mlp", "unet"])
def test_a_student_learns_its_teacher(tmp_path: Path, op: SparseUnet | PointMlp) -> None:
    options = replace(OPTIONS, steps=40, lr=5e-3)
    made, history = train(tmp_path, student(op), options=options)
    assert history[-1]["loss"] < 0.3 * history[0]["loss"]
    scene = room()
    rows = predict(op, made.net, scene["cloud"]).rows
    cosine = nn.functional.cosine_similarity(rows, scene["lifted"].rows)
    assert cosine[scene["lifted"].valid].mean() > 0.9


def test_the_log_says_what_happened(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    train(tmp_path, progress=lambda done, total: seen.append((done, total)))
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    steps = [record for record in records if record["event"] == "step"]
    assert [record["step"] for record in steps] == [1, 2, 3, 4, 5, 6]
    assert all(
        {"loss", "lr", "grad_norm", "rows_per_s", "t_s"} <= record.keys() for record in steps
    )
    assert steps[-1]["lr"] < steps[2]["lr"] == max(record["lr"] for record in steps)
    assert seen == [(done, 6) for done in range(7)]


def test_the_same_seed_gives_the_same_bits_and_another_does_not(tmp_path: Path) -> None:
    runs = [
        train(tmp_path / str(i), options=replace(OPTIONS, seed=seed))[0]
        for i, seed in enumerate((0, 0, 1))
    ]
    assert same(state(runs[0]), state(runs[1]))
    assert not same(state(runs[0]), state(runs[2]))


VARIED = Augment(rotate_rad=3.0, scale=0.1, jitter_m=0.01, input_jitter=0.1)


@pytest.mark.parametrize(
    ("op", "k"), [(MLP, 1), (MLP, 2), (MLP, 3), (MLP, 4), (MLP, 5), (UNET, 4)], ids=repr
)
def test_resuming_at_any_step_ends_in_the_same_bits(
    tmp_path: Path, op: SparseUnet | PointMlp, k: int
) -> None:
    options = replace(OPTIONS, checkpoint_every=k, augment=VARIED, keep_checkpoints=9)
    whole, history = train(tmp_path / "whole", student(op), options=options)
    with pytest.raises(StopHereError):
        train(tmp_path / "parts", student(op), options=options, progress=stop_at(k))
    rest, tail = train(tmp_path / "parts", student(op), options=options, resume=True)
    assert same(state(rest), state(whole))
    a, b = (
        load_checkpoint(checkpoints(tmp_path / name / "checkpoints")[-1])
        for name in ("whole", "parts")
    )
    assert same(a.tensors, b.tensors)
    # Python's own generator is restored too, but the shape checker of tests draws from it.
    for meta in (a.meta, b.meta):
        del meta["rng"]["python"]
    assert a.meta == b.meta
    for mine, theirs in zip(tail, history[k:], strict=True):
        assert (mine["step"], mine["loss"]) == (theirs["step"], theirs["loss"])


class Noisy(PointMLP):
    """Draws from torch's generator in every step."""

    def decode_raw(self, encoded: Encoded, select: Tensor | None) -> Tensor:
        return nn.functional.dropout(super().decode_raw(encoded, select), 0.5, self.training)


def noisy() -> Student:
    torch.manual_seed(3)
    return Student(MLP, Noisy(5, CHANNELS, width=16, depth=1, space="simplex"))


def test_resuming_goes_on_with_the_same_noise(tmp_path: Path) -> None:
    options = replace(OPTIONS, checkpoint_every=3)
    whole, _ = train(tmp_path / "whole", noisy(), options=options)
    with pytest.raises(StopHereError):
        train(tmp_path / "parts", noisy(), options=options, progress=stop_at(3))
    torch.rand(17)
    assert same(
        state(train(tmp_path / "parts", noisy(), options=options, resume=True)[0]), state(whole)
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_exits_and_the_rest_is_the_same(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    handler = signal.getsignal(number)
    act = stop_at(2, lambda: os.kill(os.getpid(), number))
    with pytest.raises(SystemExit) as caught:
        train(tmp_path / "parts", progress=act)
    assert caught.value.code == code
    assert signal.getsignal(number) is handler
    assert [p.name for p in checkpoints(tmp_path / "parts/checkpoints")] == ["step-00000003"]
    rest, _ = train(tmp_path / "parts", resume=True)
    assert same(state(rest), state(train(tmp_path / "whole")[0]))


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    made, _ = train(tmp_path)
    again, history = train(tmp_path, resume=True)
    assert history == []
    assert same(state(made), state(again))


def test_resuming_where_there_is_nothing_starts_anew(tmp_path: Path) -> None:
    assert len(train(tmp_path, resume=True)[1]) == OPTIONS.steps


@pytest.mark.parametrize(
    "teacher_dtype", [torch.float32, torch.float16], ids=["float32", "float16"]
)
def test_teacher_rows_may_lie_in_a_mapped_file(tmp_path: Path, teacher_dtype: torch.dtype) -> None:
    scene = room()
    rows = scene["lifted"].rows.to(teacher_dtype)
    np.save(tmp_path / "rows.npy", rows.numpy())
    mapped = torch.from_numpy(np.load(tmp_path / "rows.npy", mmap_mode="c"))
    runs = [
        train(tmp_path / name, scenes=[{**scene, "lifted": replace(scene["lifted"], rows=given)}])[
            0
        ]
        for name, given in (("memory", rows), ("mapped", mapped))
    ]
    assert same(state(runs[0]), state(runs[1]))


@pytest.mark.parametrize("filler", [float("nan"), 1e30])
def test_unobserved_rows_have_no_influence(tmp_path: Path, filler: float) -> None:
    scene = room()
    rows = scene["lifted"].rows.clone()
    rows[~scene["lifted"].valid] = filler
    spoilt = {**scene, "lifted": replace(scene["lifted"], rows=rows)}
    runs = [train(tmp_path / str(i), scenes=[s])[0] for i, s in enumerate((scene, spoilt))]
    assert same(state(runs[0]), state(runs[1]))


def test_two_teachers_of_other_widths_share_a_student(tmp_path: Path) -> None:
    scene = room()
    wide = torch.randn(400, 9, generator=torch.Generator().manual_seed(1))
    scene["wide"] = replace(scene["lifted"], rows=wide)
    cosine, mse = Cosine(project="linear"), Mse(weight=0.5, project="mlp")
    edges = [
        Distill(op, "wide", "student", op.build(channels=CHANNELS, teacher_channels=9))
        for op in (cosine, mse)
    ]
    before = [p.clone() for edge in edges for p in edge.net.parameters()]
    _, history = train(tmp_path, student(space="raw"), scenes=[scene], edges=edges)
    after = [p for edge in edges for p in edge.net.parameters()]
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert set(history[-1]["losses"]) == {"wide -> student"}
    names = load_checkpoint(checkpoints(tmp_path / "checkpoints")[-1]).tensors
    assert "wide->student:1/project.2.weight" in names


def test_two_students_and_two_scenes(tmp_path: Path) -> None:
    students = {"a": student(), "b": student(UNET)}
    edges = [Distill(Kl(), "lifted", name) for name in students]
    result = fit(students, edges, [room(), room(200, seed=1)], OPTIONS, tmp_path)
    assert len(result.history) == 6
    assert result.checkpoint.name == "step-00000006"


def test_predicting_in_blocks_agrees_with_one_pass(tmp_path: Path) -> None:
    for op, tolerance in ((MLP, 1e-6), (UNET, 0.05)):
        made, cloud = student(op), room()["cloud"]
        whole = predict(op, made.net, cloud).rows
        out = torch.full((400, CHANNELS), -1.0)
        parts = predict(op, made.net, cloud, out=out, max_points=100).rows
        assert parts is out
        assert (parts - whole).abs().max() < tolerance


def test_predicting_nothing_gives_no_rows() -> None:
    empty = Points(xyz=torch.zeros(0, 3), offsets=torch.tensor([0, 0]), rgb=torch.zeros(0, 3))
    for op in (MLP, UNET):
        cloud = replace(empty, normals=torch.zeros(0, 3))
        assert predict(op, student(op).net, cloud).rows.shape == (0, CHANNELS)


def test_samples_of_a_batch_are_predicted_apart() -> None:
    one, two = room()["cloud"], room(100, seed=5)["cloud"]
    both = Points(
        xyz=torch.cat([one.xyz, two.xyz + 0.03]),
        offsets=torch.tensor([0, 400, 500]),
        rgb=torch.cat([one.rgb, two.rgb]),
        normals=torch.cat([one.normals, two.normals]),
    )
    net = student(UNET).net
    alone = predict(UNET, net, replace(two, xyz=two.xyz + 0.03)).rows
    torch.testing.assert_close(predict(UNET, net, both).rows[400:], alone, rtol=1e-4, atol=1e-5)
    graph_call = UNET(net, both).rows
    torch.testing.assert_close(graph_call.detach()[400:], alone, rtol=1e-4, atol=1e-5)


def test_an_infinite_teacher_row_stops_the_run_and_is_named(tmp_path: Path) -> None:
    scene = room()
    rows = scene["lifted"].rows.clone()
    bad = int(scene["lifted"].valid.nonzero()[7])
    rows[bad, 2] = float("nan")
    spoilt = {**scene, "lifted": replace(scene["lifted"], rows=rows)}
    options = replace(OPTIONS, crop_points=400, crops=1, loss_rows=400)
    with pytest.raises(DataError, match=f"lifted row {bad}"):
        train(tmp_path, scenes=[spoilt], options=options)
    dump = json.loads((tmp_path / "failed-step-00000001.json").read_text())
    assert dump["seed"] == 0
    assert bad in dump["rows"]["student"]
    assert checkpoints(tmp_path / "checkpoints") == []


class Exploding(nn.Module):
    """Adds infinity to rows once it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, rows: Tensor) -> Tensor:
        return rows * self.scale * float("inf")


def test_a_loss_that_overflows_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    options = replace(OPTIONS, checkpoint_every=1)
    with pytest.raises(StopHereError):
        train(tmp_path, options=options, progress=stop_at(2))
    kept = [path.name for path in checkpoints(tmp_path / "checkpoints")]
    edge = Distill(Mse(), "lifted", "student", Exploding())
    with pytest.raises(DataError, match="all teacher rows are finite"):
        train(tmp_path / "other", edges=[edge], options=options)
    assert kept == ["step-00000001", "step-00000002"]


def test_checkpoints_without_resume_are_not_overwritten(tmp_path: Path) -> None:
    train(tmp_path)
    with pytest.raises(UsageError, match="--resume"):
        train(tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [({"lr": 1.0}, "options.lr"), ({"steps": 9}, "options.steps"), ({"seed": 5}, "options.seed")],
)
def test_other_options_are_not_resumed(tmp_path: Path, change: Any, named: str) -> None:
    train(tmp_path)
    with pytest.raises(UsageError, match=named):
        train(tmp_path, options=replace(OPTIONS, **change), resume=True)


def test_another_student_is_not_resumed(tmp_path: Path) -> None:
    train(tmp_path)
    with pytest.raises(UsageError, match=r"students\.student\.width: 32 then, 16 now"):
        train(tmp_path, student(PointMlp(width=16, depth=2, inputs=LOCAL)), resume=True)


def test_another_scene_is_not_resumed(tmp_path: Path) -> None:
    train(tmp_path)
    with pytest.raises(UsageError, match="points"):
        train(tmp_path, scenes=[room(300)], resume=True)


def damage_newest(out: Path) -> None:
    file = checkpoints(out / "checkpoints")[-1] / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def test_a_damaged_checkpoint_is_refused_and_auto_goes_one_back(tmp_path: Path) -> None:
    options = replace(OPTIONS, checkpoint_every=2)
    with pytest.raises(StopHereError):
        train(tmp_path, options=options, progress=stop_at(4))
    damage_newest(tmp_path)
    with pytest.raises(CheckpointError, match="step-00000004"):
        train(tmp_path, options=options, resume=True)
    made, history = train(tmp_path, options=options, resume="auto")
    assert history[0]["step"] == 3
    assert "damaged_checkpoint" in (tmp_path / "log.jsonl").read_text()
    assert same(state(made), state(train(tmp_path / "whole", options=options)[0]))


def test_auto_with_no_whole_checkpoint_is_refused(tmp_path: Path) -> None:
    train(tmp_path)
    damage_newest(tmp_path)
    with pytest.raises(CheckpointError):
        train(tmp_path, resume="auto")


def _without_rows(scene: dict[str, Points]) -> dict[str, Points]:
    return {**scene, "lifted": replace(scene["lifted"], rows=None)}


def _unseen(scene: dict[str, Points]) -> dict[str, Points]:
    return {**scene, "lifted": replace(scene["lifted"], weight=torch.zeros(400))}


def _other_support(scene: dict[str, Points]) -> dict[str, Points]:
    return {**scene, "lifted": room(300)["lifted"]}


def _no_teacher(scene: dict[str, Points]) -> dict[str, Points]:
    return {"cloud": scene["cloud"]}


def _no_colour(scene: dict[str, Points]) -> dict[str, Points]:
    return {**scene, "cloud": replace(scene["cloud"], rgb=None)}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_without_rows, "no rows"),
        (_unseen, "none that a teacher saw"),
        (_other_support, "300 rows"),
        (_no_teacher, "lifted"),
        (_no_colour, "without colours"),
    ],
)
def test_a_scene_that_does_not_fit_is_refused(
    tmp_path: Path, spoil: Callable[[dict[str, Points]], dict[str, Points]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        train(tmp_path, scenes=[spoil(room())])


def test_a_student_without_a_teacher_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="every student"):
        fit(
            {"a": student(), "b": student()},
            [Distill(Kl(), "lifted", "a")],
            [room()],
            OPTIONS,
            tmp_path,
        )
    with pytest.raises(UsageError, match="0 scenes"):
        fit({"a": student()}, [Distill(Kl(), "lifted", "a")], [], OPTIONS, tmp_path)


class Hungry(PointMLP):
    """A student that asks for more memory than there is."""

    def encode(self, xyz: Tensor, offsets: Tensor, inputs: Tensor) -> Encoded:
        torch.empty(1 << 60, dtype=torch.uint8)
        return super().encode(xyz, offsets, inputs)


def test_running_out_of_memory_is_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="lower crop_points") as caught:
        train(tmp_path, Student(MLP, Hungry(5, CHANNELS, width=8, depth=1, space="simplex")))
    assert getattr(caught.value, "exit_code", None) == 5


@pytest.mark.parametrize(
    "change",
    [{"steps": 0}, {"crop_points": 0}, {"lr": 0.0}, {"lr": float("nan")}, {"grad_clip": 0.0}],
)
def test_options_that_cannot_train_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        TrainOptions(**change)


@pytest.mark.parametrize(
    "change", [{"scale": 1.0}, {"jitter_m": -1.0}, {"rotate_rad": float("nan")}]
)
def test_augmentation_that_is_none_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="augmentation"):
        Augment(**change)


def test_training_leaves_the_number_of_threads_as_it_was(tmp_path: Path) -> None:
    seen: list[int] = []
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        train(tmp_path, progress=lambda done, total: seen.append(torch.get_num_threads()))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert set(seen[1:]) == {1}
