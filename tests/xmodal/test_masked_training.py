"""Masked modelling in the training loop: it resumes bit for bit, and it learns to fill in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from xmodal.edges.distill.mse import Mse
from xmodal.edges.encode.point_mlp import PointMlp
from xmodal.edges.encode.point_transformer import PointTransformer
from xmodal.edges.encode.sparse_unet import SparseUnet
from xmodal.errors import DataError
from xmodal.train.loop import Augment, Distill, Student, TrainOptions, fit
from xmodal.values import Points

OPTIONS = TrainOptions(
    steps=4,
    crop_points=300,
    crops=2,
    loss_rows=200,
    warmup_steps=2,
    checkpoint_every=2,
    log_every=1,
)
HIDDEN: dict[str, Any] = {
    "voxel_m": 0.1,
    "inputs": ("rgb", "height"),
    "mask_ratio": 0.5,
    "mask_cell_m": 0.3,
}


def tiles(num: int = 600) -> dict[str, Points]:
    """A floor of one colour to the left and another to the right; rows say the colour."""
    generator = torch.Generator().manual_seed(0)
    xyz = torch.rand(num, 3, generator=generator) * torch.tensor([3.0, 3.0, 0.05])
    side = (xyz[:, :1] > 1.5).float()
    cloud = Points(xyz=xyz, offsets=torch.tensor([0, num]), rgb=side.expand(-1, 3).contiguous())
    return {"cloud": cloud, "lifted": replace(cloud, rows=side * 2 - 1)}


def student(op: Any, **settings: Any) -> Student:
    torch.manual_seed(3)
    edge = op(**{**HIDDEN, **settings})
    return Student(edge, edge.build(channels=1, space="raw"))


def train(out: Path, made: Student, options: TrainOptions = OPTIONS, **rest: Any) -> Any:
    edge = Distill(Mse(rows="masked"), "lifted", "student")
    return fit({"student": made}, [edge], [tiles()], options, out, **rest)


class StopHereError(Exception):
    """Ends a run from its progress callback, as a crash would."""


def test_a_masked_run_that_was_stopped_ends_in_the_same_bits(tmp_path: Path) -> None:
    # The transformer draws masks and turns of its curves, the U-Net masks only.
    op = PointTransformer
    whole, parts = student(op), student(op)
    train(tmp_path / "whole", whole)

    def progress(done: int, total: int) -> None:
        if done == 2:
            raise StopHereError

    with pytest.raises(StopHereError):
        train(tmp_path / "parts", parts, progress=progress)
    parts = student(op)
    torch.manual_seed(99)
    train(tmp_path / "parts", parts, resume=True)
    expected, found = whole.net.state_dict(), parts.net.state_dict()
    assert "mask_token" in expected
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_what_is_hidden_is_learnt_from_its_surroundings(tmp_path: Path) -> None:
    made = student(PointTransformer)
    options = replace(
        OPTIONS, steps=30, crops=1, crop_points=600, lr=3e-3, checkpoint_every=30, augment=Augment()
    )
    history = train(tmp_path, made, options).history
    # The mean of both colours would leave a loss of 1.
    assert sum(record["loss"] for record in history[-5:]) / 5 < 0.6


def test_a_student_that_hides_nothing_has_no_masked_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="masked"):
        train(tmp_path, student(SparseUnet, mask_ratio=0.0))


def test_a_perceptron_has_no_surroundings_and_no_mask() -> None:
    with pytest.raises(TypeError, match="mask_ratio"):
        PointMlp(mask_ratio=0.5)  # pyright: ignore[reportCallIssue]
