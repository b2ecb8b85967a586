import dataclasses
import math

import pytest
import torch
from jaxtyping import TypeCheckError

from lifting.moments import Lifted, Moments
from lifting.operator import LiftOperator

BACKENDS = ["torch", "numba"]

# 3 targets x 4 sources; row 1 is empty; row 2 names source 1 twice.
ROW = torch.tensor([2, 0, 0, 2])
COL = torch.tensor([1, 3, 0, 1])
WEIGHT = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
DENSE = torch.tensor(
    [[3.0, 0, 0, 2], [0, 0, 0, 0], [0, 5, 0, 0]],
    dtype=torch.float64,
)


def small(weight: torch.Tensor = WEIGHT) -> LiftOperator:
    return LiftOperator.from_coo(ROW, COL, weight, shape=(3, 4))


def features(channels: int = 2) -> torch.Tensor:
    return torch.arange(4.0 * channels, dtype=torch.float64).view(4, channels) + 1


# ---- literal cases ------------------------------------------------------------------------


def test_from_coo_sorts_and_keeps_duplicates():
    operator = small()
    assert operator.crow.tolist() == [0, 2, 2, 4]
    assert operator.col.tolist() == [0, 3, 1, 1]
    assert operator.weight.tolist() == [3, 2, 1, 4]
    assert operator.row.tolist() == [0, 0, 2, 2]
    assert (operator.shape, operator.nnz) == ((3, 4), 4)
    assert torch.equal(operator.to_dense(), DENSE)


def test_coalesce_merges_duplicates_by_adding():
    merged = small().coalesce()
    assert merged.col.tolist() == [0, 3, 1]
    assert merged.weight.tolist() == [3, 2, 5]
    assert torch.equal(merged.to_dense(), DENSE)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_apply_by_hand(backend, dtype):
    # Row 0: 3 * (1, 2) + 2 * (7, 8); row 2: 5 * (3, 4).
    result = small().apply(features().to(dtype), backend=backend)
    assert result.tolist() == [[17, 22], [0, 0], [15, 20]]
    assert result.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_lift_divides_once_and_names_what_is_unobserved():
    lifted = small().lift(features())
    assert torch.allclose(lifted.rows[0], torch.tensor([17, 22], dtype=torch.float64) / 5)
    assert lifted.rows[1].tolist() == [0, 0]
    assert lifted.rows[2].tolist() == [3, 4]
    assert lifted.valid.tolist() == [True, False, True]
    assert lifted.weight.tolist() == [5, 0, 5]
    assert lifted.num_views.tolist() == [1, 0, 1]


def test_disagreement_by_hand():
    # Opposite directions cancel, orthogonal ones leave sqrt(2) / 2, lengths do not matter.
    row, col = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 1, 0, 2, 0, 3])
    operator = LiftOperator.from_coo(row, col, torch.ones(6), shape=(3, 4))
    f = torch.tensor([[1.0, 0], [-5, 0], [0, 2], [7, 0]])
    wanted = torch.tensor([1.0, 1 - math.sqrt(0.5), 0])
    assert torch.allclose(operator.lift(f).disagreement, wanted, atol=1e-6)


def test_a_feature_of_length_zero_has_no_direction():
    operator = LiftOperator.from_coo(
        torch.tensor([0, 0]), torch.tensor([0, 1]), torch.ones(2), shape=(1, 2)
    )
    lifted = operator.lift(torch.tensor([[0.0, 0], [2, 0]]))
    assert lifted.rows.tolist() == [[1, 0]]
    assert lifted.disagreement.tolist() == [0.5]


def test_mean_is_row_stochastic_and_leaves_empty_rows_empty():
    assert small().mean().row_sum().tolist() == [1, 0, 1]


def test_mean_of_means_is_written_by_intent():
    # Cell 0 holds three points, cell 1 one point; both cells make one segment.
    cells = LiftOperator.from_coo(
        torch.tensor([0, 0, 0, 1]), torch.arange(4), torch.ones(4), shape=(2, 4)
    )
    segment = LiftOperator.from_coo(
        torch.tensor([0, 0]), torch.arange(2), torch.ones(2), shape=(1, 2)
    )
    f = torch.tensor([[1.0], [1], [1], [5]])
    assert (segment @ cells).lift(f).rows.tolist() == [[2]]
    assert (segment.mean() @ cells.mean()).apply(f).tolist() == [[3]]


def test_adjoint_composites_without_normalising():
    x = torch.tensor([[1.0], [10], [100]], dtype=torch.float64)
    assert small().adjoint(x).squeeze(1).tolist() == [3, 500, 0, 2]


def test_scaling_rows_columns_and_dropping_zeros():
    operator = small().scale_rows(torch.tensor([1.0, 1, 0])).drop_zeros()
    assert operator.col.tolist() == [0, 3]
    assert operator.shape == (3, 4)
    scaled = small().scale_columns(torch.tensor([2.0, 1, 1, 0.5]))
    assert scaled.weight.tolist() == [6, 1, 1, 4]
    assert small().drop_zeros().nnz == 4


def test_select_rows_repeats_and_reorders():
    operator = small().select_rows(torch.tensor([2, 1, 2]))
    assert torch.equal(operator.to_dense(), DENSE[[2, 1, 2]])


def test_identity_changes_nothing():
    f = features()
    assert torch.equal(LiftOperator.identity(4, dtype=torch.float64).apply(f), f)


def test_to_changes_dtype():
    assert small().to(dtype=torch.float32).weight.dtype == torch.float32
    assert small().to(device="cpu").crow.tolist() == [0, 2, 2, 4]


def test_transpose_is_remembered_with_the_pattern():
    operator = small()
    operator.transpose()
    again = operator.with_weight(WEIGHT * 2)
    assert "_transposed" in again.__dict__
    wanted = small().to_dense().T * (again.to_dense().T != 0)
    wanted = LiftOperator.from_coo(operator.row, operator.col, WEIGHT * 2, shape=(3, 4)).to_dense()
    assert torch.equal(again.transpose().to_dense(), wanted.T)


@pytest.mark.parametrize("backend", BACKENDS)
def test_non_contiguous_features(backend):
    f = torch.randn(3, 4, dtype=torch.float64).T
    assert torch.allclose(small().apply(f, backend=backend), DENSE @ f)


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
def test_empty_operators(shape):
    nothing = torch.zeros(0, dtype=torch.int64)
    operator = LiftOperator.from_coo(nothing, nothing, torch.zeros(0), shape=shape)
    lifted = operator.lift(torch.zeros(shape[1], 5))
    assert lifted.rows.shape == (shape[0], 5)
    assert not lifted.valid.any()
    assert operator.adjoint(torch.zeros(shape[0], 2)).shape == (shape[1], 2)
    assert (operator @ operator.transpose()).shape == (shape[0], shape[0])
    assert operator.coalesce().shape == shape


def test_no_channels():
    assert small().apply(torch.zeros(4, 0)).shape == (3, 0)


# ---- gradients ----------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("form", ["apply", "adjoint", "mean", "compose", "lift", "row_sum"])
def test_gradcheck(backend, form):
    weight = WEIGHT.clone().requires_grad_()
    f = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    x = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    forms = {
        "apply": (lambda w, f: small(w).apply(f, backend=backend), f),
        "adjoint": (lambda w, x: small(w).adjoint(x, backend=backend), x),
        "mean": (lambda w, f: small(w).mean().apply(f, backend=backend), f),
        "compose": (
            lambda w, x: (small(w) @ small(w * w).transpose()).apply(x, backend=backend),
            x,
        ),
        "lift": (lambda w, f: small(w).lift(f, backend=backend).rows, f),
        "row_sum": (lambda w, f: small(w).row_sum() * f.sum(), f),
    }
    function, other = forms[form]
    assert torch.autograd.gradcheck(function, (weight, other))


def test_gradient_of_disagreement_is_finite_at_zero_features():
    f = torch.zeros(4, 2, dtype=torch.float64, requires_grad=True)
    small().lift(f).rows.sum().backward()
    assert f.grad is not None
    assert f.grad.isfinite().all()


# ---- moments ------------------------------------------------------------------------------


def test_moments_of_parts_add_up_to_the_whole():
    f = torch.randn(4, 3, dtype=torch.float64)
    first = small().moments(f)
    second = LiftOperator.identity(4, dtype=torch.float64).select_rows(torch.arange(3)).moments(f)
    total = first.add(second).finish()
    joined = LiftOperator.from_coo(
        torch.cat([ROW, torch.arange(3)]),
        torch.cat([COL, torch.arange(3)]),
        torch.cat([WEIGHT, torch.ones(3, dtype=torch.float64)]),
        shape=(3, 4),
    ).lift(f)
    assert torch.allclose(total.rows, joined.rows)
    assert torch.allclose(total.disagreement, joined.disagreement)
    assert total.num_views.tolist() == [2, 1, 2]


def test_moments_of_nothing_are_unobserved():
    lifted = Moments.zeros(2, 3).finish()
    assert isinstance(lifted, Lifted)
    assert not lifted.valid.any()
    assert not lifted.rows.any()
    assert not lifted.disagreement.any()


# ---- what is refused ----------------------------------------------------------------------


def test_moments_of_other_shapes_do_not_add():
    with pytest.raises(ValueError, match="same targets and channels"):
        Moments.zeros(2, 3).add(Moments.zeros(2, 4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crow": torch.tensor([0, 2, 2, 3])}, "from 0 to the number of entries 4, got 0 to 3"),
        ({"crow": torch.tensor([1, 2, 2, 4])}, "got 1 to 4"),
        ({"crow": torch.tensor([0, 3, 2, 4])}, "must not decrease"),
        ({"col": torch.tensor([0, 3, 1, 4])}, r"column index 4 lies outside \[0, 4\)"),
        ({"col": torch.tensor([0, 3, 1, -1])}, "column index -1"),
        ({"weight": WEIGHT.clone().fill_(math.nan)}, "finite weights"),
        ({"weight": WEIGHT.clone().fill_(math.inf)}, "finite weights"),
    ],
)
def test_inconsistent_patterns_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(small(), **change)


@pytest.mark.parametrize("name", ["crow", "col"])
def test_index_tensors_are_int64(name):
    with pytest.raises(TypeCheckError):
        dataclasses.replace(small(), **{name: getattr(small(), name).int()})


@pytest.mark.parametrize(
    ("row", "col", "message"),
    [
        ([0, 3], [0, 0], "row index 3"),
        ([-1, 0], [0, 0], "row index -1"),
        ([0, 0], [0, 4], "column index 4"),
    ],
)
def test_from_coo_refuses_indices_outside(row, col, message):
    with pytest.raises(ValueError, match=message):
        LiftOperator.from_coo(torch.tensor(row), torch.tensor(col), torch.ones(2), shape=(3, 4))


def test_more_cells_than_int64_can_number():
    nothing = torch.zeros(0, dtype=torch.int64)
    with pytest.raises(ValueError, match="more cells than int64"):
        LiftOperator.from_coo(nothing, nothing, torch.zeros(0), shape=(1 << 32, 1 << 32))


def test_with_weight_needs_one_finite_weight_per_entry():
    with pytest.raises(ValueError, match="finite weights"):
        small().with_weight(torch.tensor([1.0, 2, 3, math.nan]))
    with pytest.raises(ValueError, match="one weight for each of its 4 entries, got 3"):
        small().with_weight(torch.ones(3))


def test_apply_refuses_another_number_of_sources():
    with pytest.raises(ValueError, match=r"shape \[4, C\], got \[5, 2\]"):
        small().apply(torch.zeros(5, 2))


def test_composition_refuses_operators_that_do_not_meet():
    with pytest.raises(ValueError, match="do not compose"):
        small() @ small()


@pytest.mark.parametrize("method", ["lift", "moments"])
def test_averages_refuse_negative_weights(method):
    with pytest.raises(ValueError, match="negative weight"):
        getattr(small(-WEIGHT), method)(features())
    with pytest.raises(ValueError, match="negative weight"):
        small(-WEIGHT).mean()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_averages_refuse_features_that_are_not_finite(bad):
    f = features()
    f[3, 1] = bad
    with pytest.raises(ValueError, match="must be finite"):
        small().lift(f)


def test_a_bad_feature_that_nobody_reads_does_no_harm():
    f = features()
    f[2] = math.nan
    assert small().lift(f).rows.isfinite().all()


def test_select_rows_refuses_indices_outside():
    with pytest.raises(ValueError, match="row index 3"):
        small().select_rows(torch.tensor([3]))


def test_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="backends"):
        small().apply(features(), backend="blas")
