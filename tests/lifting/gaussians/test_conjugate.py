import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lifting.gaussians.conjugate import conjugate_gradients


def spd(size: int, seed: int = 0, floor: float = 0.1) -> torch.Tensor:
    half = torch.randn(
        size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    return half @ half.T + floor * torch.eye(size, dtype=torch.float64)


def columns(size: int, count: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, count, dtype=torch.float64, generator=generator)


def test_two_by_two_by_hand():
    # [[4, 1], [1, 3]] x = [1, 2] has the solution [1/11, 7/11], found in two steps.
    A = torch.tensor([[4.0, 1], [1, 3]], dtype=torch.float64)
    b = torch.tensor([[1.0], [2]], dtype=torch.float64)
    found = conjugate_gradients(lambda x: A @ x, b, tolerance=1e-12, max_iterations=2)
    assert torch.allclose(found.x[:, 0], torch.tensor([1.0, 7], dtype=torch.float64) / 11)
    assert len(found.residuals) == 3
    assert found.residuals[0] == 1
    assert found.residuals[-1] < 1e-12


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), precondition=st.booleans(), warm=st.booleans())
def test_it_agrees_with_a_dense_solve(seed, precondition, warm):
    A, b = spd(12, seed), columns(12, 3, seed + 1)
    found = conjugate_gradients(
        lambda x: A @ x,
        b,
        start=columns(12, 3, seed + 2) if warm else None,
        diagonal=A.diagonal() if precondition else None,
        tolerance=1e-11,
        max_iterations=200,
    )
    assert torch.allclose(found.x, torch.linalg.solve(A, b), rtol=1e-6, atol=1e-7)


def test_columns_do_not_disturb_each_other():
    A, b = spd(8), columns(8, 4)
    b[:, 1] *= 1e6
    b[:, 2] = 0
    together = conjugate_gradients(lambda x: A @ x, b, tolerance=1e-9).x
    for c in range(4):
        alone = conjugate_gradients(lambda x: A @ x, b[:, c : c + 1], tolerance=1e-9).x
        assert torch.allclose(
            together[:, c], alone[:, 0], rtol=1e-7, atol=1e-9 * (1e6 if c == 1 else 1)
        )
    assert bool((together[:, 2] == 0).all())


def test_residuals_are_those_of_the_equations():
    A, b = spd(20), columns(20, 2)
    found = conjugate_gradients(lambda x: A @ x, b, tolerance=1e-3, max_iterations=7)
    true = ((b - A @ found.x).norm(dim=0) / b.norm(dim=0)).max()
    assert found.residuals[-1] == pytest.approx(float(true), rel=1e-8)
    assert len(found.residuals) <= 8


def test_it_stops_at_the_tolerance_and_at_a_solution():
    A, b = spd(20, floor=5.0), columns(20, 2)
    found = conjugate_gradients(lambda x: A @ x, b, tolerance=1e-2)
    assert found.residuals[-1] <= 1e-2 < found.residuals[-2]
    exact = torch.linalg.solve(A, b)
    assert len(conjugate_gradients(lambda x: A @ x, b, start=exact).residuals) == 1


def test_where_the_matrix_sees_nothing_the_start_stays():
    A = torch.diag(torch.tensor([2.0, 0, 4], dtype=torch.float64))
    b = torch.tensor([[2.0], [0], [2]], dtype=torch.float64)
    start = torch.tensor([[0.0], [7], [0]], dtype=torch.float64)
    for diagonal in (None, A.diagonal()):
        found = conjugate_gradients(lambda x: A @ x, b, start=start, diagonal=diagonal)
        assert found.x[:, 0].tolist() == [1, 7, 0.5]


def test_no_columns_and_no_rows():
    for shape in ((3, 0), (0, 3)):
        found = conjugate_gradients(lambda x: x, torch.zeros(shape))
        assert found.x.shape == shape


def test_start_is_not_changed():
    start = torch.ones(2, 1)
    conjugate_gradients(lambda x: 2 * x, torch.ones(2, 1), start=start)
    assert start.tolist() == [[1], [1]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tolerance": -1.0}, "tolerance of 0 or more, got -1"),
        ({"tolerance": float("nan")}, "tolerance"),
        ({"max_iterations": -1}, "max_iterations of 0 or more"),
        ({"start": torch.zeros(2, 3)}, r"shape of b \[2, 1\], got \[2, 3\]"),
        ({"diagonal": torch.ones(3)}, "diagonal must have 2 numbers, got 3"),
        ({"diagonal": torch.tensor([1.0, -1])}, "negative diagonal"),
        ({"start": torch.tensor([[1.0], [float("inf")]])}, "start must be finite"),
        ({"b": torch.tensor([[1.0], [float("nan")]])}, "b must be finite"),
    ],
)
def test_what_cannot_be_solved_is_refused(change, message):
    arguments = {"b": torch.ones(2, 1)} | change
    # The shape checker of the tests refuses some of these first.
    with pytest.raises((ValueError, TypeError)) as caught:
        conjugate_gradients(lambda x: x, arguments.pop("b"), **arguments)
    if isinstance(caught.value, ValueError):
        assert caught.match(message)
