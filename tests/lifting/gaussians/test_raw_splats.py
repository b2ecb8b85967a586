"""Parameters and moments change together."""

from __future__ import annotations

import math

import pytest
import torch

from lifting.gaussians.raw_splats import NAMES, Rates, RawSplats
from lifting.gaussians.splats import Splats


def make_splats(count: int = 5, *, degree: int | None = 1, seed: int = 0) -> Splats:
    chance = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=chance)

    return Splats(
        means=uniform(count, 3) * 2 - 1,
        quats=uniform(count, 4) + 0.1,
        scales=uniform(count, 3) * 0.1 + 0.05,
        opacities=uniform(count) * 0.8 + 0.1,
        sh=None if degree is None else uniform(count, (degree + 1) ** 2, 3) - 0.5,
    )


def make_raw(count: int = 5, *, steps: int = 2) -> RawSplats:
    raw = RawSplats(make_splats(count), sh_degree=1, rates=Rates(), extent_m=2.0)
    for _ in range(steps):
        for name in NAMES:
            value = raw.parameters[name]
            # Another gradient for each row, so that rows can be told apart by their moments.
            value.grad = (
                torch.arange(1.0, count + 1)
                .view(-1, *[1] * (value.ndim - 1))
                .expand_as(value)
                .clone()
            )
        raw.step(0.0)
    return raw


def test_there_and_back() -> None:
    splats = make_splats()
    back = RawSplats(splats, sh_degree=1, rates=Rates(), extent_m=1.0).splats()
    torch.testing.assert_close(back.means, splats.means)
    torch.testing.assert_close(back.scales, splats.scales)
    torch.testing.assert_close(back.opacities, splats.opacities)
    torch.testing.assert_close(back.sh, splats.sh)
    length = torch.linalg.vector_norm(splats.quats, dim=1, keepdim=True)
    torch.testing.assert_close(back.quats, splats.quats / length)


def test_degrees_are_cut_and_filled() -> None:
    splats = make_splats(degree=1)
    assert splats.sh is not None
    more = RawSplats(splats, sh_degree=3, rates=Rates(), extent_m=1.0)
    assert more.splats().sh_degree == 3
    assert more.splats(sh_degree=0).sh_degree == 0
    less = RawSplats(splats, sh_degree=0, rates=Rates(), extent_m=1.0).splats()
    torch.testing.assert_close(less.sh, splats.sh[:, :1])
    grey = RawSplats(make_splats(degree=None), sh_degree=2, rates=Rates(), extent_m=1.0).splats()
    assert grey.sh is not None
    assert not bool(grey.sh.any())


def test_opacities_of_none_and_all_stay_finite() -> None:
    splats = make_splats(2)
    splats.opacities[:] = torch.tensor([0.0, 1.0])
    raw = RawSplats(splats, sh_degree=0, rates=Rates(), extent_m=1.0)
    assert bool(raw.parameters["logits"].isfinite().all())


def test_the_first_step_is_the_learning_rate() -> None:
    raw = RawSplats(make_splats(), sh_degree=1, rates=Rates(), extent_m=3.0)
    before = {name: value.detach().clone() for name, value in raw.parameters.items()}
    for value in raw.parameters.values():
        value.grad = torch.ones_like(value)
    raw.step(0.5)
    rates = {"means": 1.6e-4 * 3 * 0.1, "log_scales": 5e-3, "quats": 1e-3, "logits": 5e-2}
    rates |= {"sh_first": 2.5e-3, "sh_rest": 1.25e-4}
    for name, rate in rates.items():
        moved = before[name] - raw.parameters[name].detach()
        torch.testing.assert_close(moved, torch.full_like(moved, rate), rtol=2e-3, atol=1e-7)
        assert raw.parameters[name].grad is None
    assert raw.means_rate_m(1.0) == pytest.approx(1.6e-4 * 3 * 0.01)


def test_keep_takes_rows_and_moments() -> None:
    raw = make_raw()
    before = {name: (raw.rows(torch.arange(5))[name], *raw.moments(name)) for name in NAMES}
    index = torch.tensor([3, 0])
    raw.keep(index)
    assert len(raw) == 2
    for name, (value, first, second) in before.items():
        torch.testing.assert_close(raw.parameters[name].detach(), value[index])
        torch.testing.assert_close(raw.moments(name)[0], first[index])
        torch.testing.assert_close(raw.moments(name)[1], second[index])
        assert raw.parameters[name].is_leaf
        assert raw.parameters[name].requires_grad


def test_append_starts_without_moments() -> None:
    raw = make_raw()
    old = raw.moments("means")[0]
    raw.append(raw.rows(torch.tensor([1, 1])))
    assert len(raw) == 7
    torch.testing.assert_close(raw.parameters["quats"][5], raw.parameters["quats"][1])
    torch.testing.assert_close(raw.moments("means")[0][:5], old)
    assert not bool(raw.moments("means")[0][5:].any())
    # And it goes on: the optimiser knows the new tensors.
    value = raw.parameters["means"]
    value.grad = torch.ones_like(value)
    before = value.detach().clone()
    raw.step(0.0)
    assert bool((raw.parameters["means"] != before).all())


def test_overwrite_clears_what_it_sets() -> None:
    raw = make_raw()
    other = raw.moments("quats")[0]
    raw.overwrite(torch.tensor([4, 2]), {"logits": torch.tensor([0.5, -0.5])})
    assert raw.parameters["logits"][[4, 2]].tolist() == [0.5, -0.5]
    first, second = raw.moments("logits")
    assert not bool(first[[4, 2]].any() or second[[4, 2]].any())
    assert bool(first[[0, 1, 3]].all())
    torch.testing.assert_close(raw.moments("quats")[0], other)


@pytest.mark.usefixtures("unchecked")
def test_rows_of_another_shape() -> None:
    raw = make_raw()
    with pytest.raises(ValueError, match="must name means, log_scales"):
        raw.append({"means": torch.zeros(1, 3)})
    with pytest.raises(ValueError, match=r"rows of means must have shape \[3\], got \[2\]"):
        raw.overwrite(torch.tensor([0]), {"means": torch.zeros(1, 2)})
    with pytest.raises(ValueError, match="logits must have 2 rows, got 1"):
        raw.overwrite(torch.tensor([0, 1]), {"logits": torch.zeros(1)})
    with pytest.raises(ValueError, match="got opacity"):
        raw.overwrite(torch.tensor([0]), {"opacity": torch.zeros(1)})


@pytest.mark.parametrize("changes", [{"means": -1.0}, {"quats": math.nan}, {"sh_rest": math.inf}])
def test_wrong_rates(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"learning rate {next(iter(changes))} must be finite"):
        Rates(**changes)


def test_wrong_share_of_rate() -> None:
    with pytest.raises(ValueError, match=r"means_last must be a share in \(0, 1\], got 0"):
        Rates(means_last=0.0)
