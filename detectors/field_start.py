"""Start a narrow field and its decoder where one pass of closed form is.

A field that starts at random spends most of a short training on what averaging gives at once. A
teacher's rows lie close to a few directions: with these as the decoder, the mean of what the views
show of each splat, in coordinates along them, is the closed-form lift at the field's width. What is
learnt from there on can only be what averaging does not give.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detectors.memory_attention import MemoryAttention
from detectors.spaces import Space

# Below this a probability of a mean row says nothing that is worth a direction.
_LEAST = 1e-7


class Directions(NamedTuple):
    """A teacher's rows in a few coordinates: `mean + coordinates @ columns.T`, nearly.

    Attributes:
        mean: Zero where directions are taken through the origin.
        columns: Orthonormal in the metric.
        metric: How much a difference counts in each channel.
    """

    mean: Float[Tensor, " C"]
    columns: Float[Tensor, "C K"]
    metric: Float[Tensor, " C"]

    def coordinates(self, rows: Float[Tensor, "R C"]) -> Float[Tensor, "R K"]:
        """Where rows lie along the directions."""
        return (rows - self.mean) @ (self.columns * self.metric.square()[:, None])


def open_rows(rows: Float[Tensor, "R C"], space: Space) -> Float[Tensor, "R C"]:
    """Rows as a linear decoder gives them, before they are brought into their space.

    Args:
        rows: The teacher's rows; probabilities (`simplex`) become logarithms around their mean.
        space: Space of the rows.
    """
    if space != "simplex":
        return rows
    logs = rows.clamp_min(_LEAST).log()
    return logs - logs.mean(dim=1, keepdim=True)


@torch.no_grad()
def principal_directions(
    rows: Float[Tensor, "R C"], width: int, space: Space, *, centred: bool
) -> Directions:
    """The directions that rows differ most in; with few channels fewer than asked for.

    In `simplex` space channels weigh by the mean row: the metric of the Kullback-Leibler divergence
    near that mean.

    Args:
        rows: A sample of the teacher's rows.
        width: Number of directions.
        space: Space of the rows.
        centred: Around the mean instead of the origin, for decoders that have a bias.

    Raises:
        ValueError: If there are no rows.
    """
    if not len(rows):
        raise ValueError("directions need rows of the teacher, got none")
    metric = rows.new_ones(rows.shape[1], dtype=torch.float64)
    if space == "simplex":
        metric = rows.double().mean(dim=0).clamp_min(_LEAST).sqrt()
    told = open_rows(rows, space).double()
    mean = told.mean(dim=0) if centred else torch.zeros_like(metric)
    weighed = (told - mean) * metric
    _, vectors = torch.linalg.eigh(weighed.T @ weighed)
    columns = vectors.flip(1)[:, :width] / metric[:, None]
    return Directions(mean.float(), columns.float(), metric.float())


def can_start(layer: nn.Module | None) -> bool:
    """Whether `start_decoder` can set a decoder; it cannot set one that only turns rows."""
    if isinstance(layer, MemoryAttention):
        return True
    if isinstance(layer, nn.Sequential):
        parts = list(layer)
        return len(parts) == 3 and all(isinstance(parts[place], nn.Linear) for place in (0, 2))
    return isinstance(layer, nn.Linear) and not nn.utils.parametrize.is_parametrized(layer)


def needs_mean(layer: nn.Module) -> bool:
    """Whether a decoder has a bias that holds the mean of the rows."""
    return isinstance(layer, nn.Sequential)


@torch.no_grad()
def start_decoder(layer: nn.Module, found: Directions) -> None:
    """Let a decoder make rows of coordinates: `mean + coordinates @ columns.T`.

    Args:
        layer: A linear layer; one of two with a ReLU between, whose bias gets the mean; or the
            queries of a memory.
        found: The directions, through the origin where the layer has no bias.

    Raises:
        ValueError: If the decoder is none of these.
    """
    if not can_start(layer):
        raise ValueError(f"a decoder of {type(layer).__name__} cannot be set to directions")
    if isinstance(layer, nn.Sequential):
        first, last = layer[0], layer[2]
        assert isinstance(first, nn.Linear)  # it can be started
        assert isinstance(last, nn.Linear)
        _start_two_layers(first, last, found)
        return
    inner = layer.query if isinstance(layer, MemoryAttention) else layer
    assert isinstance(inner, nn.Linear)  # it can be started
    inner.weight.zero_()
    inner.weight[:, : found.columns.shape[1]] = found.columns.to(inner.weight)


def _start_two_layers(first: nn.Linear, last: nn.Linear, found: Directions) -> None:
    num = min(found.columns.shape[1], first.out_features // 2)
    place = torch.arange(num)
    # x is ReLU(x) - ReLU(-x). Other hidden units say nothing yet, and learn from the first step.
    first.weight[: 2 * num] = 0
    first.bias[: 2 * num] = 0
    first.weight[place, place], first.weight[num + place, place] = 1, -1
    last.weight.zero_()
    last.weight[:, :num] = found.columns[:, :num].to(last.weight)
    last.weight[:, num : 2 * num] = -last.weight[:, :num]
    last.bias.copy_(found.mean)
