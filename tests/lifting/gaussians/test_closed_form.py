import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lifting.gaussians.closed_form import LiftedSplats, SplatView, Tikhonov, composed, lift_splats
from lifting.operator import LiftOperator
from lifting.robust import RobustLift
from lifting.sampling import patch_taps

BACKENDS = ["torch", "numba"]
HOWS = ["mean", "robust", "solve"]
NAN = float("nan")


def dense(
    matrix: list[list[float]] | torch.Tensor, dtype: torch.dtype = torch.float32
) -> LiftOperator:
    matrix = torch.as_tensor(matrix, dtype=dtype)
    row, col = matrix.nonzero(as_tuple=True)
    return LiftOperator.from_coo(row, col, matrix[row, col], shape=tuple(matrix.shape))


def centres(hw: tuple[int, int]) -> torch.Tensor:
    down, across = torch.meshgrid(torch.arange(hw[0]), torch.arange(hw[1]), indexing="ij")
    return torch.stack((across, down), -1).view(-1, 2) + 0.5


def random_view(
    seed: int,
    *,
    splats: int = 9,
    hw: tuple[int, int] = (8, 12),
    grid: tuple[int, int] | None = (2, 3),
    channels: int = 5,
    dtype: torch.dtype = torch.float32,
) -> SplatView:
    """Random compositing weights: non-negative, rows sum to at most 1, some pixels empty."""
    generator = torch.Generator().manual_seed(seed)
    pixels = hw[0] * hw[1]
    share = torch.rand(pixels, splats, generator=generator, dtype=dtype)
    share *= torch.rand(pixels, splats, generator=generator) < 0.4
    share /= share.sum(1, keepdim=True).clamp_min(1)
    taps = None if grid is None else patch_taps(centres(hw).to(dtype), image_hw=hw, grid_hw=grid)
    count = pixels if grid is None else grid[0] * grid[1]
    rows = torch.randn(count, channels, generator=generator, dtype=dtype)
    return SplatView(weights=dense(share, dtype), rows=rows, taps=taps, name=f"view {seed}")


def normal_equations(views, ridge, x0):
    """The dense matrix and right-hand side that the solve must agree with."""
    size = views[0].weights.num_sources
    A = ridge * torch.eye(size, dtype=torch.float64)
    b = ridge * x0.double()
    for view in views:
        W = view.weights.to_dense().double()
        U = (
            torch.eye(len(W), dtype=torch.float64)
            if view.taps is None
            else view.taps.to_dense().double()
        )
        A, b = A + W.T @ (U.sum(1)[:, None] * W), b + W.T @ U @ view.rows.double()
    return A, b


# ---- literal cases -----------------------------------------------------------------------------

# Two splats, three pixels: the first alone, both half, the second alone at half opacity.
TWO = [[1.0, 0], [0.5, 0.5], [0, 0.5]]
SEEN = torch.tensor([[2.0, 0], [4, 0], [0, 8]])


@pytest.mark.parametrize("backend", BACKENDS)
def test_mean_of_two_splats_by_hand(backend):
    view = SplatView(weights=dense(TWO), rows=SEEN)
    lifted = lift_splats([view], 2, backend=backend)
    # Splat 0: (1 * (2, 0) + 0.5 * (4, 0)) / 1.5; splat 1: (0.5 * (4, 0) + 0.5 * (0, 8)) / 1.
    assert torch.allclose(lifted.rows, torch.tensor([[8 / 3, 0], [2, 4]]))
    assert lifted.weight.tolist() == [1.5, 1]
    assert lifted.num_views.tolist() == [1, 1]
    assert lifted.valid.tolist() == [True, True]
    assert lifted.disagreement.tolist() == pytest.approx([0, 1 - 0.5**0.5], abs=1e-6)
    assert torch.equal(lifted.uncertainty, lifted.disagreement)
    assert lifted.residuals == ()


@pytest.mark.parametrize("backend", BACKENDS)
def test_views_count_alike_with_half_px_by_hand(backend):
    near = SplatView(weights=dense([[1.0], [1.0], [1.0], [1.0]]), rows=torch.tensor([[1.0]] * 4))
    far = SplatView(weights=dense([[1.0]]), rows=torch.tensor([[0.0]]))
    # Four pixels against one, then 4 / 5 against 1 / 2, then one against one.
    for half_px, weight, row in ((None, 5.0, 0.8), (1.0, 1.3, 0.8 / 1.3), (0.0, 2.0, 0.5)):
        lifted = lift_splats([near, far], 1, half_px=half_px, backend=backend)
        assert lifted.weight.item() == pytest.approx(weight)
        assert lifted.rows.item() == pytest.approx(row)


@pytest.mark.parametrize(("half_px", "how"), [(-1.0, "mean"), (NAN, "mean"), (0.3, "solve")])
def test_half_px_without_a_meaning_is_refused(half_px, how):
    with pytest.raises(ValueError, match="half_px"):
        lift_splats([SplatView(weights=dense(TWO), rows=SEEN)], 2, how=how, half_px=half_px)


@pytest.mark.parametrize("backend", BACKENDS)
def test_solve_of_two_splats_by_hand(backend):
    # W' W = [[1.25, 0.25], [0.25, 0.5]]; features rendered from (2, 0) and (6, 2) come back.
    truth = torch.tensor([[2.0, 0], [6, 2]])
    view = SplatView(weights=dense(TWO), rows=dense(TWO).apply(truth))
    exact = Tikhonov(ridge=0.0, tolerance=1e-6)
    lifted = lift_splats([view], 2, how="solve", solve=exact, backend=backend)
    assert torch.allclose(lifted.rows, truth, atol=1e-4)
    assert lifted.residuals[-1] <= 1e-6
    assert lifted.uncertainty.tolist() == pytest.approx([0, 0])
    # With a ridge of 0.75 and x0 = 0: [[2, 0.25], [0.25, 1.25]] x = W' f = [[4, .5], [3.5, 1]].
    ridge = Tikhonov(ridge=0.75, prior="zero", tolerance=1e-6)
    lifted = lift_splats([view], 2, how="solve", solve=ridge, backend=backend)
    matrix = torch.tensor([[2, 0.25], [0.25, 1.25]])
    wanted = torch.linalg.solve(matrix, torch.tensor([[4, 0.5], [3.5, 1]]))
    assert torch.allclose(lifted.rows, wanted, atol=1e-4)
    assert lifted.uncertainty.tolist() == pytest.approx([0.75 / 2, 0.75 / 1.25])


@pytest.mark.parametrize("backend", BACKENDS)
def test_robust_leaves_out_a_view_that_disagrees(backend):
    good, bad = torch.tensor([[1.0, 0, 0]]), torch.tensor([[0.0, 1, 0]])
    views = [SplatView(weights=dense([[1.0]]), rows=good, name=str(k)) for k in range(4)]
    views.insert(2, SplatView(weights=dense([[1.0]]), rows=bad, name="bad"))
    mean = lift_splats(views, 1, backend=backend).rows
    robust = lift_splats(views, 1, how="robust", backend=backend).rows
    assert mean[0].tolist() == pytest.approx([0.8, 0.2, 0])
    assert robust[0, 1] < 0.5 * mean[0, 1]
    strict = RobustLift(tuning=0.01)
    strict_rows = lift_splats(views, 1, how="robust", robust=strict, backend=backend).rows
    assert strict_rows[0, 1] < robust[0, 1]


def test_a_pixel_without_a_mask_does_not_count():
    # Two pixels of one splat; a mask covers the first only. The second says nothing, not "zero".
    taps = dense([[1.0], [0.0]])
    view = SplatView(weights=dense([[1.0], [1.0]]), rows=torch.tensor([[3.0]]), taps=taps)
    for how in HOWS:
        lifted = lift_splats([view], 1, how=how)
        assert lifted.rows.item() == pytest.approx(3, abs=1e-5)
        assert lifted.weight.item() == 1


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_splats_that_nobody_sees_are_not_valid(how, backend):
    view = SplatView(weights=dense([[0.0, 1, 0], [0, 0.5, 0]]), rows=torch.ones(2, 4))
    lifted = lift_splats([view], 3, how=how, backend=backend)
    assert lifted.valid.tolist() == [False, True, False]
    assert lifted.num_views.tolist() == [0, 1, 0]
    assert bool((lifted.rows[[0, 2]] == 0).all())
    assert lifted.uncertainty[[0, 2]].tolist() == [1, 1]
    assert bool(lifted.uncertainty.isfinite().all())


@pytest.mark.parametrize("how", HOWS)
def test_views_that_see_nothing(how):
    view = SplatView(weights=dense(torch.zeros(6, 4)), rows=torch.randn(6, 2))
    lifted = lift_splats([view, view], 4, how=how)
    assert not bool(lifted.valid.any())
    assert bool((lifted.rows == 0).all())
    assert lifted.weight.tolist() == [0] * 4


# ---- composition -------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [None, (1, 1), (2, 3), (5, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_composition_equals_the_product_of_operators(grid, dtype):
    view = random_view(0, grid=grid, dtype=dtype)
    fast, plain = (composed(view, backend=name) for name in ("numba", "torch"))
    assert fast.shape == plain.shape
    assert fast.nnz == plain.nnz
    assert fast.weight.dtype == plain.weight.dtype == dtype
    assert torch.allclose(fast.to_dense(), plain.to_dense())


def test_composition_merges_and_leaves_out_zeros():
    view = SplatView(
        weights=dense([[1.0, 0.5], [2.0, 0.0]]),
        rows=torch.zeros(3, 1),
        taps=LiftOperator(
            crow=torch.tensor([0, 2, 3]),
            col=torch.tensor([0, 2, 0]),
            weight=torch.tensor([1.0, 0.0, 3.0]),
            num_sources=3,
        ),
    )
    operator = composed(view, backend="numba")
    assert operator.to_dense().tolist() == [[7, 0, 0], [0.5, 0, 0]]
    assert operator.nnz == 2


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_the_composed_operator_is_the_adjoint_of_rendering(seed):
    # <render(x), read(f)> = <x, lift(f)>
    view = random_view(seed, dtype=torch.float64)
    assert view.taps is not None
    x = torch.randn(9, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    rendered = view.weights.apply(x)
    read = view.taps.apply(view.rows[:, :2].contiguous())
    lifted = composed(view).apply(view.rows[:, :2].contiguous())
    assert float((rendered * read).sum()) == pytest.approx(float((x * lifted).sum()), abs=1e-9)


# ---- properties of all methods -----------------------------------------------------------------


@pytest.mark.parametrize("how", HOWS)
def test_backends_agree(how):
    views = [random_view(seed) for seed in range(3)]
    results = [lift_splats(views, 9, how=how, backend=name) for name in BACKENDS]
    for field in dataclasses.fields(LiftedSplats):
        a, b = (getattr(result, field.name) for result in results)
        if field.name == "residuals":
            assert a == pytest.approx(b, rel=1e-2, abs=1e-5)
        else:
            assert torch.allclose(a, b, atol=1e-5), field.name


@pytest.mark.parametrize("how", HOWS)
@settings(deadline=None, max_examples=10)
@given(order=st.permutations(range(4)))
def test_the_order_of_views_does_not_matter(how, order):
    views = [random_view(seed) for seed in range(4)]
    solve = Tikhonov(tolerance=1e-6) if how == "solve" else None
    first = lift_splats(views, 9, how=how, solve=solve)
    second = lift_splats([views[i] for i in order], 9, how=how, solve=solve)
    assert torch.allclose(first.rows, second.rows, atol=1e-5)
    assert torch.allclose(first.uncertainty, second.uncertainty, atol=1e-5)


@pytest.mark.parametrize("how", ["mean", "robust"])
def test_the_mean_of_a_constant_is_the_constant(how):
    views = [random_view(seed) for seed in range(3)]
    constant = torch.tensor([0.5, -2, 3, 0, 1])
    views = [dataclasses.replace(v, rows=constant.expand(6, 5).contiguous()) for v in views]
    lifted = lift_splats(views, 9, how=how)
    assert torch.allclose(lifted.rows, constant.expand(9, 5), atol=1e-5)
    assert float(lifted.disagreement.max()) < 1e-5


def test_the_solve_of_a_constant_is_the_constant_where_pixels_are_full():
    views = [random_view(seed) for seed in range(3)]
    views = [
        dataclasses.replace(v, weights=v.weights.mean(), rows=torch.full((6, 2), 3.0))
        for v in views
    ]
    lifted = lift_splats(views, 9, how="solve", solve=Tikhonov(tolerance=1e-6))
    # Pixels that nothing covers ask for nothing; the mean is already the solution.
    assert torch.allclose(lifted.rows, torch.full((9, 2), 3.0), atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("prior", ["mean", "zero"])
@pytest.mark.parametrize("grid", [None, (2, 3)])
def test_the_solve_agrees_with_the_dense_normal_equations(backend, prior, grid):
    views = [random_view(seed, grid=grid, dtype=torch.float64) for seed in range(3)]
    options = Tikhonov(ridge=0.3, prior=prior, tolerance=1e-12, block_channels=2)
    lifted = lift_splats(views, 9, how="solve", solve=options, backend=backend)
    x0 = lift_splats(views, 9).rows if prior == "mean" else torch.zeros(9, 5)
    A, b = normal_equations(views, 0.3, x0)
    assert lifted.rows.dtype == torch.float64
    assert torch.allclose(lifted.rows, torch.linalg.solve(A, b), rtol=1e-9, atol=1e-9)
    assert torch.allclose(lifted.uncertainty, 0.3 / A.diagonal())
    assert lifted.residuals[-1] <= 1e-12


def test_uncertainty_is_a_lower_bound_of_the_true_variance():
    views = [random_view(seed, dtype=torch.float64) for seed in range(2)]
    A, _ = normal_equations(views, 0.5, torch.zeros(9, 5))
    true = 0.5 * torch.linalg.inv(A).diagonal()
    found = lift_splats(views, 9, how="solve", solve=Tikhonov(ridge=0.5)).uncertainty
    assert bool((found <= true + 1e-12).all())
    assert bool((true <= 1 + 1e-12).all())


def test_a_strong_prior_wins():
    views = [random_view(seed) for seed in range(2)]
    mean = lift_splats(views, 9).rows
    strong = lift_splats(views, 9, how="solve", solve=Tikhonov(ridge=1e6))
    assert torch.allclose(strong.rows, mean, atol=1e-3)
    zero = lift_splats(views, 9, how="solve", solve=Tikhonov(ridge=1e6, prior="zero"))
    assert float(zero.rows.abs().max()) < 1e-3


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("channels", [1, 3, 37, 512, 1000])
def test_any_width(how, channels):
    views = [random_view(seed, channels=channels) for seed in range(2)]
    lifted = lift_splats(views, 9, how=how)
    assert lifted.rows.shape == (9, channels)
    # Columns are lifted alone: the first is what it is without the others (not so for `robust`,
    # which judges whole rows).
    if how != "robust":
        alone = [dataclasses.replace(v, rows=v.rows[:, :1].contiguous()) for v in views]
        solve = Tikhonov(tolerance=1e-5) if how == "solve" else None
        first = lift_splats(alone, 9, how=how, solve=solve).rows
        together = lift_splats(views, 9, how=how, solve=solve).rows[:, :1]
        assert torch.allclose(first, together, atol=1e-4)


def test_half_precision_is_lifted_in_single():
    view = random_view(0)
    half = dataclasses.replace(view, rows=view.rows.half())
    exact = dataclasses.replace(view, rows=view.rows.half().float())
    lifted = lift_splats([half], 9)
    assert lifted.rows.dtype == torch.float32
    assert torch.equal(lifted.rows, lift_splats([exact], 9).rows)


def test_out_is_written():
    view, out = random_view(0), torch.full((9, 5), NAN)
    lifted = lift_splats([view], 9, out=out)
    assert lifted.rows is out
    assert torch.equal(out, lift_splats([view], 9).rows)


class Lazy:
    """Views that are made anew each time."""

    def __init__(self, count: int) -> None:
        self.count, self.made = count, 0

    def __iter__(self):
        for seed in range(self.count):
            self.made += 1
            yield random_view(seed)


def test_views_may_be_made_when_they_are_asked_for():
    lazy = Lazy(3)
    assert torch.equal(lift_splats(lazy, 9).rows, lift_splats(list(Lazy(3)), 9).rows)
    assert lazy.made == 3
    once = lift_splats(iter(Lazy(3)), 9, how="robust")
    assert torch.equal(once.rows, lift_splats(lazy, 9, how="robust").rows)
    solved = lift_splats(lazy, 9, how="solve")
    assert torch.equal(solved.rows, lift_splats(list(Lazy(3)), 9, how="solve").rows)


def test_rows_that_no_splat_reads_may_be_nan():
    # The second pixel shows nothing, and the taps' third column is never read.
    view = SplatView(weights=dense([[1.0], [0.0]]), rows=torch.tensor([[2.0], [NAN]]))
    for how in HOWS:
        assert lift_splats([view], 1, how=how).rows.item() == pytest.approx(2, abs=1e-6)


# ---- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("bad", [NAN, float("inf")])
def test_bad_features_name_the_view(how, bad):
    views = [random_view(seed) for seed in range(3)]
    views[1].rows[4, 2] = bad
    with pytest.raises(ValueError, match="view 1: features to lift must be finite"):
        lift_splats(views, 9, how=how)


def test_no_views():
    with pytest.raises(ValueError, match="at least one view, got none"):
        lift_splats([], 4)


def test_another_width_names_the_view():
    views = [random_view(0), random_view(1, channels=6)]
    with pytest.raises(
        ValueError, match="view 1: all views must have 5 channels as view 0 has, got 6"
    ):
        lift_splats(views, 9)


def test_another_number_of_splats_names_the_view():
    with pytest.raises(ValueError, match="view 0: its weights are of 9 splats, expected 8"):
        lift_splats([random_view(0)], 8)


@pytest.mark.parametrize("backend", BACKENDS)
def test_negative_weights_name_the_view(backend):
    view = SplatView(weights=dense([[1.0], [-0.5]]), rows=torch.ones(2, 1), name="odd")
    with pytest.raises(ValueError, match="odd: weights of splats and taps must be zero or more"):
        lift_splats([view], 1, backend=backend)


def test_views_that_do_not_fit_together_are_refused():
    view = random_view(0)
    with pytest.raises(ValueError, match="view 0: 6 columns of the taps need as many rows, got 7"):
        dataclasses.replace(view, rows=torch.zeros(7, 5))
    with pytest.raises(ValueError, match="view 0: 96 pixels need as many rows, got 6"):
        dataclasses.replace(view, taps=None)
    taps = dense(torch.ones(5, 6))
    with pytest.raises(ValueError, match="weights are of 96 pixels, the taps of 5"):
        dataclasses.replace(view, taps=taps)


def test_a_solve_refuses_an_iterator():
    with pytest.raises(ValueError, match="used up after one"):
        lift_splats(iter([random_view(0)]), 9, how="solve")


def test_settings_without_effect_are_refused():
    view = random_view(0)
    with pytest.raises(ValueError, match="`robust` has no effect with how='solve'"):
        lift_splats([view], 9, how="solve", robust=RobustLift())
    with pytest.raises(ValueError, match="`solve` has no effect with how='mean'"):
        lift_splats([view], 9, solve=Tikhonov())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ridge": -1.0}, "ridge of 0 or more, got -1"),
        ({"ridge": NAN}, "ridge of 0 or more, got nan"),
        ({"tolerance": 0.0}, "tolerance above 0"),
        ({"max_iterations": 0}, "1 or more"),
        ({"block_channels": 0}, "1 or more"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Tikhonov(**settings)


def test_an_out_that_does_not_fit_is_refused():
    for out in (torch.empty(9, 4), torch.empty(9, 5, dtype=torch.float64), torch.empty(5, 9).T):
        with pytest.raises(ValueError, match="`out` contiguous of shape"):
            lift_splats([random_view(0)], 9, out=out)
