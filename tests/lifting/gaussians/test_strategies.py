"""Hand-worked changes of the number of splats."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from lifting.gaussians.densify import (
    Densify,
    clone_splats,
    drop_splats,
    reset_opacities,
    split_splats,
)
from lifting.gaussians.mcmc import (
    Mcmc,
    add_splats,
    relocate_dead,
    shared_opacity_and_scales,
    stir,
)
from lifting.gaussians.raw_splats import Rates, RawSplats
from lifting.gaussians.splats import Splats
from lifting.gaussians.strategies import Begin
from tests.lifting.gaussians.test_raw_splats import make_raw, make_splats


def _chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _begin(steps: int = 1000, extent_m: float = 1.0) -> Begin:
    return Begin(steps=steps, extent_m=extent_m, generator=_chance())


def _raw(splats: Splats, extent_m: float = 1.0) -> RawSplats:
    return RawSplats(splats, sh_degree=0, rates=Rates(), extent_m=extent_m)


# ---- clone, split, prune ----------------------------------------------------------------------


def test_clones_are_copies_at_the_end() -> None:
    raw = make_raw()
    first = raw.moments("means")[0]
    clone_splats(raw, torch.tensor([3, 1]))
    assert len(raw) == 7
    torch.testing.assert_close(raw.parameters["means"][5:], raw.parameters["means"][[3, 1]])
    torch.testing.assert_close(raw.moments("means")[0][:5], first)


def test_split_puts_two_smaller_ones_in_the_place() -> None:
    raw = make_raw()
    old = raw.rows(torch.arange(5))
    first = raw.moments("means")[0]
    split_splats(raw, torch.tensor([1, 4]), _chance())
    assert len(raw) == 7
    torch.testing.assert_close(raw.parameters["means"][:3].detach(), old["means"][[0, 2, 3]])
    torch.testing.assert_close(raw.moments("means")[0][:3], first[[0, 2, 3]])
    assert not bool(raw.moments("means")[0][3:].any())
    parents = [1, 4, 1, 4]
    torch.testing.assert_close(
        raw.parameters["log_scales"][3:].detach(), old["log_scales"][parents] - math.log(1.6)
    )
    torch.testing.assert_close(raw.parameters["logits"][3:].detach(), old["logits"][parents])
    moved = torch.linalg.vector_norm(raw.parameters["means"][3:] - old["means"][parents], dim=1)
    assert bool((moved > 0).all())
    assert bool((moved < 5 * old["log_scales"][parents].exp().amax(1)).all())


def test_halves_are_drawn_from_the_splat() -> None:
    needle = Splats(
        means=torch.zeros(1, 3),
        # A quarter turn about z: the long first axis lies along y.
        quats=torch.tensor([[math.sqrt(0.5), 0.0, 0.0, math.sqrt(0.5)]]),
        scales=torch.tensor([[1.0, 1e-3, 1e-3]]),
        opacities=torch.tensor([0.5]),
    )
    raw = _raw(needle.select(torch.zeros(400, dtype=torch.int64)))
    split_splats(raw, torch.arange(400), _chance())
    spread = raw.parameters["means"].detach().std(0)
    assert float(spread[1]) == pytest.approx(1.0, rel=0.1)
    assert float(spread[[0, 2]].max()) < 2e-3


def test_drop_takes_the_right_rows() -> None:
    splats = make_splats(4)
    splats.opacities[:] = torch.tensor([0.5, 0.001, 0.9, 0.5])
    splats.scales[:] = 0.1
    splats.scales[3, 1] = 3.0
    raw = RawSplats(splats, sh_degree=1, rates=Rates(), extent_m=1.0)
    for value in raw.parameters.values():
        value.grad = torch.arange(1.0, 5).view(-1, *[1] * (value.ndim - 1)).expand_as(value)
    raw.step(0.0)
    first = raw.moments("means")[0]
    drop_splats(raw, prune_opacity=0.005, most_m=1.0)
    assert len(raw) == 2
    torch.testing.assert_close(raw.moments("means")[0], first[[0, 2]])
    assert raw.splats().opacities.tolist() == pytest.approx([0.5, 0.9], abs=0.02)


def test_the_last_splat_stays() -> None:
    raw = make_raw(3)
    drop_splats(raw, prune_opacity=0.499, most_m=1e-9)
    assert len(raw) == 1


def test_reset_lowers_opacities_only() -> None:
    splats = make_splats(3)
    splats.opacities[:] = torch.tensor([0.9, 0.004, 0.5])
    raw = _raw(splats)
    reset_opacities(raw, 0.01)
    assert raw.splats().opacities.tolist() == pytest.approx([0.01, 0.004, 0.01], rel=1e-4)


def _observed(gradients: list[float], sizes: list[float], **settings: float) -> RawSplats:
    count = len(gradients)
    splats = make_splats(count)
    splats.scales[:] = torch.tensor(sizes)[:, None]
    raw = _raw(splats)
    running = Densify(first_step=0, every=10, **settings).begin(_begin())
    uv = torch.stack((torch.tensor(gradients), torch.zeros(count)), 1)
    # A pixel gradient of g in an image 20 wide is 10 g in units of half the image.
    for _ in range(2):
        running.observe(uv / 10, torch.ones(count, 2), (8, 20))
    running.update(raw, 10)
    return raw


def test_small_ones_are_cloned_and_large_ones_split() -> None:
    raw = _observed([1.0, 0.1, 1.0], [0.005, 0.005, 0.02], grow_gradient=0.5)
    # One clone, one split in the place of its parent.
    assert len(raw) == 5
    sizes = raw.splats().scales[:, 0].tolist()
    assert sizes == pytest.approx([0.005, 0.005, 0.005, 0.02 / 1.6, 0.02 / 1.6])


def test_gradients_are_means_over_the_views_that_drew() -> None:
    splats = make_splats(2)
    splats.scales[:] = 0.001
    raw = _raw(splats)
    running = Densify(first_step=0, every=10, grow_gradient=0.5).begin(_begin())
    gradient = torch.tensor([[0.06, 0.0], [0.06, 0.0]])
    running.observe(gradient, torch.ones(2, 2), (8, 20))
    # The second splat is not in this view: it keeps its mean of 0.6, the other has 0.3.
    running.observe(torch.zeros(2, 2), torch.tensor([[1.0, 1.0], [0.0, 0.0]]), (8, 20))
    running.update(raw, 10)
    assert len(raw) == 3
    torch.testing.assert_close(raw.parameters["means"][2], raw.parameters["means"][1])


def test_growth_stops_at_the_limit_with_the_strongest() -> None:
    raw = _observed([1.0, 3.0, 2.0], [0.001] * 3, grow_gradient=0.5, max_splats=4)
    assert len(raw) == 4
    torch.testing.assert_close(raw.parameters["means"][3], raw.parameters["means"][1])


def test_nothing_changes_between_and_after() -> None:
    raw = make_raw(3)
    running = Densify(first_step=20, every=10, until=0.5).begin(_begin(steps=100))
    for step in (5, 10, 25, 60):
        running.observe(torch.ones(3, 2), torch.ones(3, 2), (8, 8))
        running.update(raw, step)
    assert len(raw) == 3


# ---- Markov chain -----------------------------------------------------------------------------


@pytest.mark.parametrize("copies", [1, 2, 5, 51])
@pytest.mark.parametrize("opacity", [0.01, 0.5, 0.999])
def test_copies_look_like_the_one(copies: int, opacity: float) -> None:
    old = torch.tensor([opacity], dtype=torch.float64)
    scales = torch.tensor([[0.3, 0.2, 0.1]], dtype=torch.float64)
    new, smaller = shared_opacity_and_scales(old, scales, torch.tensor([copies]))
    # Composited at the centre: 1 - (1 - new)^n.
    assert 1 - (1 - float(new)) ** copies == pytest.approx(opacity)
    # And along a line through it, integrated numerically.
    x = torch.linspace(-3, 3, 6001, dtype=torch.float64)
    one = opacity * torch.exp(-0.5 * (x / 0.3) ** 2)
    alpha = float(new) * torch.exp(-0.5 * (x / float(smaller[0, 0])) ** 2)
    many = 1 - (1 - alpha) ** copies
    assert float(many.sum()) == pytest.approx(float(one.sum()), rel=1e-6)
    torch.testing.assert_close(smaller[0] / smaller[0, 0], scales[0] / 0.3)


def test_two_copies_by_hand() -> None:
    new, scales = shared_opacity_and_scales(
        torch.tensor([0.75]), torch.tensor([[1.0, 1.0, 1.0]]), torch.tensor([2])
    )
    # 1 - sqrt(0.25) = 0.5; 0.75 / (2 * 0.5 - 0.25 / sqrt 2).
    assert float(new) == pytest.approx(0.5)
    assert float(scales[0, 0]) == pytest.approx(0.75 / (1 - 0.25 / math.sqrt(2)))


def test_dead_splats_move_to_live_ones() -> None:
    splats = make_splats(4)
    splats.opacities[:] = torch.tensor([0.001, 0.75, 0.002, 0.003])
    raw = RawSplats(splats, sh_degree=1, rates=Rates(), extent_m=1.0)
    for value in raw.parameters.values():
        value.grad = torch.ones_like(value)
    raw.step(0.0)
    opacity = float(raw.splats().opacities[1].detach())
    assert relocate_dead(raw, 0.02, _chance()) == 3
    with torch.no_grad():
        moved = raw.splats()
    torch.testing.assert_close(moved.means, moved.means[1].expand(4, 3))
    torch.testing.assert_close(moved.scales, moved.scales[1].expand(4, 3))
    # All four together are as opaque as the one was.
    assert 1 - float((1 - moved.opacities).prod()) == pytest.approx(opacity, rel=1e-5)
    assert not bool(raw.moments("means")[0].any())


def test_nothing_moves_where_all_live_or_all_are_dead() -> None:
    raw = make_raw()
    before = raw.parameters["means"].detach().clone()
    assert relocate_dead(raw, 0.0001, _chance()) == 0
    assert relocate_dead(raw, 0.9999, _chance()) == 0
    torch.testing.assert_close(raw.parameters["means"].detach(), before)


def test_added_splats_share_with_their_parents() -> None:
    splats = make_splats(2)
    splats.opacities[:] = torch.tensor([0.5, 0.5])
    raw = _raw(splats)
    add_splats(raw, 3, _chance())
    assert len(raw) == 5
    with torch.no_grad():
        grown = raw.splats()
    for parent in range(2):
        family = (grown.means == grown.means[parent]).all(1)
        together = 1 - float((1 - grown.opacities[family]).prod())
        assert together == pytest.approx(0.5, rel=1e-5)
    add_splats(raw, 0, _chance())
    assert len(raw) == 5


def test_noise_moves_transparent_splats_along_their_shape() -> None:
    splats = make_splats(200)
    splats.quats[:] = torch.tensor([1.0, 0, 0, 0])
    splats.scales[:] = torch.tensor([0.1, 1e-4, 1e-4])
    splats.opacities[:] = 0.9
    splats.opacities[:100] = 0.001
    raw = _raw(splats)
    before = raw.parameters["means"].detach().clone()
    stir(raw, 10.0, _chance())
    moved = (raw.parameters["means"].detach() - before).abs()
    # 10 x 0.01 m^2 x sigmoid(100 * 0.004).
    assert float(moved[:100, 0].square().mean().sqrt()) == pytest.approx(0.1 * 0.599, rel=0.2)
    assert float(moved[:100, 1:].max()) < 1e-5
    assert float(moved[100:].max()) < 1e-6


def test_sampling_grows_up_to_the_limit() -> None:
    raw = make_raw(20)
    running = Mcmc(first_step=10, every=10, max_splats=22, growth=0.06).begin(_begin(steps=100))
    counts: list[int] = []
    for step in range(1, 101):
        running.update(raw, step)
        counts.append(len(raw))
    assert counts[8] == 20
    assert counts[9] == 21
    assert counts[-1] == 22


def test_penalties_by_hand() -> None:
    splats = make_splats(2)
    splats.opacities[:] = 0.5
    splats.scales[:] = 0.2
    running = Mcmc(opacity_penalty=0.1, scale_penalty=0.01).begin(_begin(extent_m=4.0))
    penalty = running.penalty(splats)
    assert penalty is not None
    assert float(penalty) == pytest.approx(0.1 * 0.5 + 0.01 * 0.2 / 4)
    assert Densify().begin(_begin()).penalty(splats) is None


def test_the_same_seed_makes_the_same_choices() -> None:
    ends: list[torch.Tensor] = []
    for _ in range(2):
        raw = make_raw(30)
        running = Mcmc(first_step=0, every=5, dead_opacity=0.3).begin(_begin(steps=100))
        for step in range(1, 30):
            running.update(raw, step)
        ends.append(raw.parameters["means"].detach())
    assert torch.equal(ends[0], ends[1])


@pytest.mark.parametrize("strategy", [Densify(), Mcmc()])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_splats": 0}, "max_splats must be at least 1, got 0"),
        ({"every": 0}, "every >= 1, got 100 and 0"),
        ({"first_step": -1}, "first_step >= 0"),
        ({"until": 1.5}, r"until must be a share of the fit in \[0, 1\], got 1.5"),
    ],
)
def test_wrong_schedules(strategy: Densify | Mcmc, changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(strategy, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reset_every": 0}, "reset_every must be at least 1"),
        ({"grow_gradient": 0.0}, "grow_gradient must be finite and above 0"),
        ({"large": math.nan}, "large must be finite"),
        ({"prune_opacity": 0.5}, r"prune_opacity must be in \[0, 0.5\)"),
    ],
)
def test_wrong_densify(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Densify(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dead_opacity": 0.0}, r"dead_opacity must be in \(0, 1\), got 0"),
        ({"growth": -0.1}, "growth must be finite and at least 0"),
        ({"noise": math.inf}, "noise must be finite"),
    ],
)
def test_wrong_mcmc(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mcmc(**changes)
