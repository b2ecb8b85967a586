"""A bank of components, read by narrow queries."""

from __future__ import annotations

import pytest
import torch

from detectors.memory_attention import MemoryAttention, farthest_directions


def test_directions_are_chosen_one_far_from_the_other() -> None:
    rows = torch.tensor([[1.0, 0.1], [0.9, 0.0], [0.0, 2.0], [-3.0, 0.0], [0.1, 1.9]])
    # The mean points to the upper right; then left is farthest, then down-right of the rest.
    chosen = farthest_directions(rows, 3).tolist()
    assert chosen[1] == 3
    assert len(set(chosen)) == 3


def test_equal_directions_are_chosen_once() -> None:
    rows = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 5.0]])
    assert len(farthest_directions(rows, 4)) == 2


def test_a_memory_holds_rows_of_the_teacher() -> None:
    torch.manual_seed(0)
    rows = torch.randn(40, 6)
    memory = MemoryAttention(3, 6, num_components=8)
    memory.start_from(torch.cat((rows, torch.zeros(2, 6), torch.full((1, 6), torch.nan))))
    for component in memory.components:
        assert (rows == component).all(1).any()


def test_a_memory_larger_than_the_scene_repeats_itself() -> None:
    memory = MemoryAttention(3, 2, num_components=5)
    memory.start_from(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    assert torch.equal(memory.components[:2], memory.components[2:4])


def test_queries_are_answered_between_the_components() -> None:
    memory = MemoryAttention(2, 2, num_components=2)
    memory.start_from(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    with torch.no_grad():
        memory.query.weight.copy_(torch.eye(2))
    given = memory(torch.tensor([[0.5, 0.5], [40.0, 0.0]]))
    assert given[0].tolist() == pytest.approx([0.5, 0.5])
    assert torch.allclose(given[1].max(), torch.tensor(1.0))
    assert torch.allclose(given.sum(1), torch.ones(2))


def test_gradients_reach_the_queries_and_leave_the_bank() -> None:
    memory = MemoryAttention(3, 6, num_components=4)
    memory.start_from(torch.randn(10, 6))
    queries = torch.randn(5, 3, requires_grad=True)
    memory(queries).square().sum().backward()
    assert queries.grad is not None
    assert queries.grad.abs().sum() > 0
    assert "components" not in dict(memory.named_parameters())


def test_a_memory_needs_rows() -> None:
    with pytest.raises(ValueError, match="rows of the teacher"):
        MemoryAttention(3, 6, num_components=4).start_from(torch.zeros(3, 6))


@pytest.mark.parametrize("sizes", [(0, 6, 4), (3, 0, 4), (3, 6, 0)])
def test_an_empty_memory_is_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="1 or more"):
        MemoryAttention(sizes[0], sizes[1], num_components=sizes[2])
