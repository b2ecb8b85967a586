"""A row for each splat of a scene."""

from __future__ import annotations

import pytest
import torch

from detectors.splat_field import SplatField

OFFSETS = torch.tensor([0, 3])


def numbers(*given: int) -> torch.Tensor:
    return torch.tensor(given, dtype=torch.float32)[:, None]


def test_rows_are_found_by_number() -> None:
    field = SplatField(5, 4, space="raw")
    rows = field(torch.zeros(3, 3), OFFSETS, numbers(4, 0, 4))
    assert torch.equal(rows, field.rows[[4, 0, 4]])
    encoded = field.encode(torch.zeros(3, 3), OFFSETS, numbers(4, 0, 4))
    assert torch.equal(field.decode(encoded, torch.tensor([1])), field.rows[[0]])


def test_gradients_reach_the_rows_that_were_asked_for() -> None:
    field = SplatField(5, 4, space="raw")
    field(torch.zeros(3, 3), OFFSETS, numbers(4, 0, 4)).sum().backward()
    assert field.rows.grad is not None
    assert field.rows.grad[:, 0].tolist() == [1, 0, 0, 0, 2]


def test_a_field_starts_at_the_mean_of_its_teacher() -> None:
    field = SplatField(50, 2, space="raw")
    field.start_from(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
    assert field.rows.mean(0).tolist() == pytest.approx([2.0, 0.0], abs=0.02)
    assert field.out_channels == 2


@pytest.mark.parametrize("asked", [5, -1])
def test_splats_of_another_scene_are_refused(asked: int) -> None:
    with pytest.raises(ValueError, match="a field of 5 splats was asked about splat"):
        SplatField(5, 4, space="raw")(torch.zeros(3, 3), OFFSETS, numbers(0, asked, 1))


@pytest.mark.parametrize(("num", "channels"), [(0, 4), (4, 0)])
def test_an_empty_field_is_refused(num: int, channels: int) -> None:
    with pytest.raises(ValueError, match="needs splats and channels"):
        SplatField(num, channels, space="raw")
