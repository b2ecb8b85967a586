"""Laws that hold for every operator."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lifting.operator import LiftOperator

BACKENDS = st.sampled_from(["torch", "numba"])


@st.composite
def operators(draw, num_targets: int | None = None, num_sources: int | None = None):
    targets = draw(st.integers(0, 8)) if num_targets is None else num_targets
    sources = draw(st.integers(0, 8)) if num_sources is None else num_sources
    nnz = draw(st.integers(0, 20)) if targets and sources else 0
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def index(high: int) -> torch.Tensor:
        return torch.randint(0, max(high, 1), (nnz,), generator=generator)

    weight = torch.rand(nnz, generator=generator, dtype=torch.float64)
    weight[index(4) == 0] = 0  # zeros are weights as well
    return LiftOperator.from_coo(index(targets), index(sources), weight, shape=(targets, sources))


def random_rows(num: int, channels: int = 3) -> torch.Tensor:
    return torch.randn(num, channels, dtype=torch.float64)


@settings(deadline=None, max_examples=60)
@given(operator=operators(), backend=BACKENDS)
def test_apply_is_the_dense_product(operator, backend):
    f = random_rows(operator.num_sources)
    assert torch.allclose(operator.apply(f, backend=backend), operator.to_dense() @ f)


@settings(deadline=None, max_examples=40)
@given(operator=operators(), backend=BACKENDS)
def test_adjointness(operator, backend):
    x, y = random_rows(operator.num_sources), random_rows(operator.num_targets)
    left = (operator.apply(x, backend=backend) * y).sum()
    right = (x * operator.adjoint(y, backend=backend)).sum()
    assert torch.allclose(left, right)


@settings(deadline=None, max_examples=40)
@given(operator=operators())
def test_mass_is_conserved(operator):
    # What leaves the sources, each by its column's weight, arrives at the targets.
    f = random_rows(operator.num_sources)
    column_sum = operator.transpose().row_sum()
    assert torch.allclose(operator.apply(f).sum(0), (column_sum[:, None] * f).sum(0))
    assert torch.allclose(operator.row_sum(), operator.to_dense().sum(1))


@settings(deadline=None, max_examples=40)
@given(operator=operators())
def test_a_mean_stays_within_its_sources_and_keeps_constants(operator):
    f = random_rows(operator.num_sources)
    lifted = operator.lift(f)
    seen = lifted.rows[lifted.valid]
    if len(seen):
        assert (seen >= f.min(0).values - 1e-12).all()
        assert (seen <= f.max(0).values + 1e-12).all()
    constant = operator.lift(torch.ones(operator.num_sources, 2, dtype=torch.float64))
    assert torch.allclose(constant.rows, constant.valid[:, None].double().expand(-1, 2))
    assert ((lifted.disagreement >= 0) & (lifted.disagreement <= 1)).all()


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_composition_is_the_product_and_associates(data):
    a = data.draw(operators())
    b = data.draw(operators(num_targets=a.num_sources))
    c = data.draw(operators(num_targets=b.num_sources))
    f = random_rows(c.num_sources)
    assert torch.allclose((a @ b).to_dense(), a.to_dense() @ b.to_dense())
    assert torch.allclose(((a @ b) @ c).apply(f), (a @ (b @ c)).apply(f))
    assert torch.allclose((a @ b).apply(c.apply(f)), a.apply(b.apply(c.apply(f))))
    assert torch.allclose(
        (a @ b).transpose().to_dense(), (b.transpose() @ a.transpose()).to_dense()
    )


@settings(deadline=None, max_examples=40)
@given(operator=operators(), seed=st.integers(0, 1000))
def test_order_of_entries_and_of_targets_does_not_matter(operator, seed):
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(operator.nnz, generator=generator)
    shuffled = LiftOperator.from_coo(
        operator.row[order], operator.col[order], operator.weight[order], shape=operator.shape
    )
    f = random_rows(operator.num_sources)
    assert torch.allclose(shuffled.apply(f), operator.apply(f))
    targets = torch.randperm(operator.num_targets, generator=generator)
    assert torch.allclose(operator.select_rows(targets).apply(f), operator.apply(f)[targets])


@settings(deadline=None, max_examples=40)
@given(operator=operators())
def test_targets_do_not_see_each_other(operator):
    # A block of targets gives the same rows as the whole: what `lift_by_block` rests on.
    f = random_rows(operator.num_sources)
    half = torch.arange(operator.num_targets // 2)
    assert torch.equal(operator.select_rows(half).apply(f), operator.apply(f)[half])


@settings(deadline=None, max_examples=40)
@given(operator=operators())
def test_coalescing_and_transposing_twice_change_nothing(operator):
    assert torch.allclose(operator.coalesce().to_dense(), operator.to_dense())
    assert torch.allclose(operator.transpose().transpose().to_dense(), operator.to_dense())
    assert torch.allclose(operator.drop_zeros().to_dense(), operator.to_dense())
