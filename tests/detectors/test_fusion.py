"""Fusion of embeddings, some of which are missing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detectors.fusion import Fusion, How, dropped, shares
from detectors.spaces import Space

HOW = pytest.mark.parametrize("how", ["mean", "gated", "confidence", "router"])
WIDTHS = (4, 6, 3)


def fusion(how: How, space: Space = "raw", *, drop: float = 0.0, top: int = 1) -> Fusion:
    torch.manual_seed(0)
    return Fusion(WIDTHS, 5, how=how, space=space, drop=drop, top=top).eval()


def sources(num: int = 4, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(num, width, generator=generator) for width in WIDTHS]


SOME = torch.tensor([[1, 1, 1], [0, 1, 0], [1, 0, 1], [0, 0, 0]]).bool()


@HOW
def test_shares_add_up_over_what_is_there(how: How) -> None:
    fused = fusion(how)(sources(), SOME)
    torch.testing.assert_close(fused.share.sum(dim=1), torch.tensor([1.0, 1.0, 1.0, 0.0]))
    assert (fused.share[~SOME] == 0).all()
    assert fused.valid.tolist() == [True, True, True, False]
    assert (fused.rows[3] == 0).all()


@HOW
def test_what_is_missing_has_no_effect_and_no_gradient(how: How) -> None:
    net = fusion(how)
    rows = sources()
    broken = [torch.where(SOME[:, i : i + 1], part, torch.nan) for i, part in enumerate(rows)]
    torch.testing.assert_close(net(rows, SOME).rows, net(broken, SOME).rows)
    for part in broken:
        part.requires_grad_()
    net(broken, SOME).rows.square().sum().backward()
    for index, part in enumerate(broken):
        assert part.grad is not None
        assert torch.isfinite(part.grad).all()
        assert (part.grad[~SOME[:, index]] == 0).all()


@HOW
def test_one_source_alone_is_its_own_projection(how: How) -> None:
    net = fusion(how)
    rows = sources()
    alone = torch.tensor([[False, True, False]] * 4)
    torch.testing.assert_close(net(rows, alone).rows, net.into[1](rows[1]))


def test_mean_by_hand() -> None:
    net = fusion("mean")
    rows = sources()
    both = torch.tensor([[True, False, True]] * 4)
    expected = (net.into[0](rows[0]) + net.into[2](rows[2])) / 2
    torch.testing.assert_close(net(rows, both).rows, expected)


def test_a_surer_vote_counts_more() -> None:
    net = fusion("confidence")
    rows = [torch.zeros(1, width) for width in WIDTHS]
    for layer in net.into:
        torch.nn.init.zeros_(layer.bias)
    rows[1] = net.into[1].weight[2].detach()[None] * 100
    share = net(rows, torch.ones(1, 3, dtype=torch.bool)).share[0]
    assert share[1] > 0.99
    torch.testing.assert_close(share[0], share[2])


def test_a_router_takes_as_many_as_it_may() -> None:
    fused = fusion("router", top=2)(sources(50), torch.ones(50, 3, dtype=torch.bool))
    assert ((fused.share > 0).sum(dim=1) == 2).all()
    fused = fusion("router", top=2)(sources(), SOME)
    assert ((fused.share > 0).sum(dim=1) == torch.tensor([2, 1, 2, 0])).all()


@HOW
def test_rows_are_in_the_declared_space(how: How) -> None:
    unit, simplex = (fusion(how, s)(sources(), SOME).rows for s in ("unit", "simplex"))
    torch.testing.assert_close(unit[:3].norm(dim=1), torch.ones(3))
    torch.testing.assert_close(simplex[:3].sum(dim=1), torch.ones(3))
    # A missing row is nothing, not an even distribution.
    assert (simplex[3] == 0).all()
    assert (unit[3] == 0).all()


@HOW
def test_order_of_samples_does_not_matter(how: How) -> None:
    net, rows, order = fusion(how), sources(), torch.tensor([2, 3, 0, 1])
    expected = net(rows, SOME).rows[order]
    torch.testing.assert_close(net([part[order] for part in rows], SOME[order]).rows, expected)


def test_no_samples() -> None:
    fused = fusion("gated")(sources(0), torch.zeros(0, 3, dtype=torch.bool))
    assert fused.rows.shape == (0, 5)


def test_sources_are_hidden_only_while_training() -> None:
    net = fusion("mean", drop=0.9)
    everything = torch.ones(200, 3, dtype=torch.bool)
    assert (net(sources(200), everything).share > 0).all()
    torch.manual_seed(3)
    left = (net.train()(sources(200), everything).share > 0).sum(dim=1)
    assert (left >= 1).all()
    assert left.float().mean() < 1.5


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.floats(0, 0.99))
def test_one_source_always_stays(seed: int, chance: float) -> None:
    torch.manual_seed(seed)
    present = torch.rand(20, 3) > 0.5
    kept = dropped(present, chance)
    assert not (kept & ~present).any()
    assert torch.equal(kept.any(dim=1), present.any(dim=1))


def test_cells_of_one_sample_lose_the_same_source() -> None:
    torch.manual_seed(0)
    sample = torch.arange(50).repeat_interleave(4)
    present = torch.rand(200, 2) > 0.2
    kept = dropped(present, 0.5, sample)
    assert not (kept & ~present).any()
    hidden = (present & ~kept).view(50, 4, 2)
    there = present.view(50, 4, 2)
    # Hidden in one cell, hidden in all that had it.
    assert torch.equal(hidden, hidden.any(dim=1, keepdim=True) & there)
    assert 10 < int(hidden.any(dim=1).sum()) < 40
    assert dropped(present[:0], 0.5, sample[:0]).shape == (0, 2)


def test_shares_are_a_soft_max_over_what_is_there() -> None:
    scores = torch.tensor([[0.0, 1.0, 5.0]])
    found = shares(scores, torch.tensor([[True, True, False]]))
    torch.testing.assert_close(found, torch.tensor([[0.26894143, 0.73105858, 0.0]]))
    assert shares(scores, torch.zeros(1, 3, dtype=torch.bool)).tolist() == [[0.0] * 3]


def test_other_sources_are_refused() -> None:
    net = fusion("mean")
    with pytest.raises(ValueError, match="sources have"):
        net(sources()[:2], SOME)
    with pytest.raises(ValueError, match="sources have"):
        net(list(reversed(sources())), SOME)
    with pytest.raises(ValueError, match="sources have"):
        net(sources(), SOME[:, :2])


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot become rows"):
        Fusion((), 5)
    with pytest.raises(ValueError, match="cannot become rows"):
        Fusion((3, 0), 5)
    with pytest.raises(ValueError, match="drop"):
        Fusion((3, 4), 5, drop=1.0)
    with pytest.raises(ValueError, match="top"):
        Fusion((3, 4), 5, how="router", top=3)


@HOW
def test_responses_add_up_to_the_fused_rows(how: How) -> None:
    net = fusion(how)
    parts, there = net.responses(sources(), SOME)
    torch.testing.assert_close(parts.sum(dim=0), net(sources(), SOME).rows)
    assert (parts[~SOME.T] == 0).all()
    assert torch.equal(there, SOME)


def test_responses_by_hand() -> None:
    # The mean of two votes: alone each gives its vote, together half of each.
    net = fusion("mean")
    rows, both = sources(), torch.tensor([[1, 1, 0]]).bool().expand(4, 3)
    first, second = net.into[0](rows[0]), net.into[1](rows[1])
    parts, _ = net.responses(rows, both)
    torch.testing.assert_close(parts[0], (first + (first + second) / 2 - second) / 2)
    torch.testing.assert_close(parts[1], (second + (first + second) / 2 - first) / 2)


def test_sources_that_are_hidden_in_training_add_nothing() -> None:
    net = fusion("gated", drop=0.9).train()
    torch.manual_seed(0)
    parts, there = net.responses(sources(), SOME)
    assert (there <= SOME).all()
    assert there.sum() < SOME.sum()
    assert (parts[~there.T] == 0).all()


def test_responses_of_other_sources_are_refused() -> None:
    with pytest.raises(ValueError, match="channels"):
        fusion("mean").responses(sources()[:2], SOME[:, :2])
