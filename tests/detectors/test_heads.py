"""Heads: text vectors as classes, masks from queries."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from detectors.heads import MaskHead, TextHead
from detectors.mask_matching import mask_loss

# Classes by text.


def test_logits_are_scaled_cosines() -> None:
    head = TextHead(torch.tensor([[2.0, 0.0], [0.0, 5.0]]))
    logits = head(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    expected = torch.tensor([[0.6, 0.8], [0.0, 0.0]]) / 0.07
    torch.testing.assert_close(logits, expected)


def test_only_the_scale_learns_and_it_is_bounded() -> None:
    head = TextHead(torch.eye(3))
    assert [name for name, _ in head.named_parameters()] == ["log_scale"]
    assert list(head.state_dict()) == ["log_scale"]
    with torch.no_grad():
        head.log_scale.fill_(50.0)
    torch.testing.assert_close(head(torch.eye(3)), 100.0 * torch.eye(3))


def test_other_names_are_asked_with_the_scale_that_was_learnt() -> None:
    head = TextHead(torch.eye(3))
    with torch.no_grad():
        head.log_scale.fill_(0.0)
    head.ask(torch.tensor([[0.0, 0.0, 7.0]]))
    torch.testing.assert_close(head(torch.eye(3)), torch.tensor([[0.0], [0.0], [1.0]]))


def test_gradients_reach_rows_and_scale() -> None:
    head = TextHead(torch.randn(3, 4).double()).double()
    rows = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda r, s: head(r), (rows, head.log_scale))


@pytest.mark.parametrize(
    "vectors", [torch.zeros(0, 4), torch.zeros(1, 4), torch.full((2, 4), float("nan"))]
)
def test_vectors_that_say_nothing_are_refused(vectors: Tensor) -> None:
    with pytest.raises(ValueError, match="finite and not zero"):
        TextHead(vectors)
    with pytest.raises(ValueError, match="finite and not zero"):
        TextHead(torch.eye(4)).ask(vectors)


def test_vectors_and_rows_of_another_width_are_refused() -> None:
    head = TextHead(torch.eye(4))
    with pytest.raises(ValueError, match="reads 4 channels"):
        head.ask(torch.eye(3))
    with pytest.raises(ValueError, match="rows have 3 channels"):
        head(torch.ones(2, 3))


# Masks from queries.


def mask_head(num_queries: int = 5) -> MaskHead:
    torch.manual_seed(0)
    return MaskHead(6, 4, num_queries=num_queries, width=32, blocks=2, heads=4)


def objects(seed: int, each: int = 20) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and places of three blobs, and their masks."""
    generator = torch.Generator().manual_seed(seed)
    of = torch.arange(3).repeat_interleave(each)
    rows = torch.randn(3, 6, generator=generator)[of] + 0.1 * torch.randn(
        3 * each, 6, generator=generator
    )
    xyz = torch.rand(3, 3, generator=generator)[of] * 4 + 0.2 * torch.rand(
        3 * each, 3, generator=generator
    )
    return rows, xyz, (of[None] == torch.arange(3)[:, None]).float()


def test_shapes_of_a_ragged_batch() -> None:
    rows, xyz, _ = objects(0)
    levels = mask_head()(rows, xyz, torch.tensor([0, 45, 45, 60]))
    assert len(levels) == 3
    for level in levels:
        assert level.logits.shape == (5, 60)
        assert level.rows.shape == (3, 5, 4)
        assert level.score.shape == (3, 5)
        assert torch.isfinite(level.logits).all()
        assert torch.isfinite(level.rows).all()


def test_a_sample_does_not_depend_on_the_rest_of_the_batch() -> None:
    head = mask_head()
    (a, xa, _), (b, xb, _) = objects(1), objects(2)
    both = head(torch.cat([a, b]), torch.cat([xa, xb]), torch.tensor([0, 60, 120]))[-1]
    alone = head(b, xb, torch.tensor([0, 60]))[-1]
    torch.testing.assert_close(both.logits[:, 60:], alone.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both.rows[1:], alone.rows, rtol=1e-4, atol=1e-5)


def test_order_of_points_and_place_of_the_room_do_not_matter() -> None:
    head = mask_head()
    rows, xyz, _ = objects(3)
    expected = head(rows, xyz, torch.tensor([0, 60]))[-1]
    shuffle = torch.randperm(60)
    shuffled = head(rows[shuffle], xyz[shuffle] + 3.0, torch.tensor([0, 60]))[-1]
    torch.testing.assert_close(shuffled.logits, expected.logits[:, shuffle], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(shuffled.rows, expected.rows, rtol=1e-3, atol=1e-4)


def test_places_tell_equal_rows_apart() -> None:
    head = mask_head()
    xyz = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    near = head(torch.ones(2, 6), xyz, torch.tensor([0, 2]))[-1]
    far = head(torch.ones(2, 6), xyz * torch.tensor([0.0, 1.0, 1.0]), torch.tensor([0, 2]))[-1]
    assert not torch.allclose(near.rows, far.rows)


def test_a_few_steps_find_three_objects() -> None:
    head = mask_head()
    rows, xyz, masks = objects(4)
    offsets = torch.tensor([0, 60])
    optimiser = torch.optim.AdamW(head.parameters(), lr=3e-3)
    for _ in range(60):
        losses = [mask_loss(level, [masks], offsets) for level in head(rows, xyz, offsets)]
        optimiser.zero_grad()
        torch.stack([loss.total for loss in losses]).sum().backward()
        optimiser.step()
    answer = head(rows, xyz, offsets)[-1]
    found = mask_loss(answer, [masks], offsets)
    pair = found.matches[0]
    assert torch.equal((answer.logits[pair.query] > 0).float(), masks[pair.mask])
    assert set((answer.score[0] > 0).nonzero().squeeze(1).tolist()) == set(pair.query.tolist())


@pytest.mark.parametrize("settings", [{"num_queries": 0}, {"blocks": 0}, {"width": 30}])
def test_a_mask_head_without_meaning_is_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        MaskHead(6, 4, **{"num_queries": 5, "width": 32, **settings})


@pytest.mark.parametrize("offsets", [[0, 5], [0, 7, 6]])
def test_offsets_that_do_not_add_up_are_refused(offsets: list[int]) -> None:
    with pytest.raises(ValueError, match="do not add up"):
        mask_head()(torch.ones(6, 6), torch.zeros(6, 3), torch.tensor(offsets))
