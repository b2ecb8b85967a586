"""Fields and decoders that begin with the closed form."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from detectors.field_start import (
    can_start,
    needs_mean,
    open_rows,
    principal_directions,
    start_decoder,
)
from detectors.memory_attention import MemoryAttention
from detectors.spaces import Space
from detectors.splat_field import SplatField
from lifting.operator import LiftOperator


def few_directions(num: int = 200, channels: int = 12, rank: int = 3) -> Tensor:
    """Rows of which a few directions say everything."""
    torch.manual_seed(0)
    return torch.randn(num, rank) @ torch.randn(rank, channels)


def two_layers(width: int, channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, channels), nn.ReLU(), nn.Linear(channels, channels))


@pytest.mark.parametrize("centred", [True, False])
def test_rows_along_their_directions_are_the_rows(centred: bool) -> None:
    rows = few_directions() + (2.0 if centred else 0.0)
    found = principal_directions(rows, 3, "raw", centred=centred)
    assert torch.allclose(found.coordinates(rows) @ found.columns.T + found.mean, rows, atol=1e-4)
    assert torch.equal(found.mean == 0, torch.full((12,), not centred))


@pytest.mark.parametrize("make", [lambda: nn.Linear(5, 12, bias=False), lambda: two_layers(5, 12)])
def test_a_decoder_makes_rows_of_coordinates(make: Callable[[], nn.Module]) -> None:
    layer, rows = make(), few_directions()
    found = principal_directions(rows, 3, "raw", centred=needs_mean(layer))
    start_decoder(layer, found)
    beyond = torch.randn(len(rows), 2)  # columns of a wider field say nothing yet
    made = layer(torch.cat((found.coordinates(rows), beyond), 1))
    assert torch.allclose(made, rows, atol=1e-4)


def test_probabilities_come_back_through_the_soft_max() -> None:
    rows, layer = (few_directions() * 0.5).softmax(dim=1), two_layers(3, 12)
    found = principal_directions(rows, 3, "simplex", centred=True)
    start_decoder(layer, found)
    made = layer(found.coordinates(open_rows(rows, "simplex"))).softmax(dim=1)
    assert torch.allclose(made, rows, atol=1e-4)


def test_a_memory_is_asked_along_the_directions() -> None:
    layer, rows = MemoryAttention(3, 12, num_components=4), few_directions()
    found = principal_directions(rows, 3, "raw", centred=False)
    start_decoder(layer, found)
    assert torch.allclose(layer.query(found.coordinates(rows)), rows, atol=1e-4)


def test_weights_stay_those_that_an_optimiser_knows() -> None:
    layer = nn.Linear(3, 12, bias=False)
    before = layer.weight
    start_decoder(layer, principal_directions(few_directions(), 3, "raw", centred=False))
    assert layer.weight is before


def test_more_directions_than_channels_are_all_channels() -> None:
    rows, layer = torch.rand(20, 2), nn.Linear(5, 2, bias=False)
    found = principal_directions(rows, 5, "raw", centred=False)
    assert found.columns.shape == (2, 2)
    start_decoder(layer, found)
    assert layer.weight[:, 2:].abs().max() == 0


def test_a_decoder_that_only_turns_is_not_set() -> None:
    layer = nn.utils.parametrizations.orthogonal(nn.Linear(3, 12, bias=False))
    assert not can_start(layer)
    with pytest.raises(ValueError, match="cannot be set to directions"):
        start_decoder(layer, principal_directions(few_directions(), 3, "raw", centred=False))


@pytest.mark.parametrize("space", ["raw", "simplex"])
def test_no_rows_have_no_directions(space: Space) -> None:
    with pytest.raises(ValueError, match="need rows of the teacher"):
        principal_directions(torch.zeros(0, 4), 2, space, centred=True)


# ---- fields --------------------------------------------------------------------------------------


def members() -> LiftOperator:
    """Two sets over four splats: one alone in each, one in both by 1 to 3, one in none."""
    return LiftOperator.from_coo(
        torch.tensor([0, 0, 1, 1]),
        torch.tensor([0, 1, 1, 2]),
        torch.tensor([2.0, 1.0, 3.0, 0.5]),
        shape=(2, 4),
    )


def test_splats_begin_with_the_mean_of_what_shows_them() -> None:
    field = SplatField(4, 3, space="raw")
    before = field.rows[:, 1].clone()
    field.start_from_sets(torch.tensor([[4.0], [8.0]]), members())
    # The last splat is in no set, and gets the mean of all.
    assert field.rows[:, 0].tolist() == pytest.approx([4.0, 7.0, 8.0, 6.0])
    assert torch.equal(field.rows[:, 1], before)


@pytest.mark.parametrize(("num", "width"), [(5, 2), (4, 4)])
def test_sets_that_do_not_fit_a_field_are_refused(num: int, width: int) -> None:
    with pytest.raises(ValueError, match="cannot start from"):
        SplatField(num, 3, space="raw").start_from_sets(torch.zeros(2, width), members())
