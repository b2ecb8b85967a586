from __future__ import annotations

import pytest
import torch

from lifting.agreement import agreement


def two_things(width: int, seed: int) -> torch.Tensor:
    """Rows of 30 points of one thing and 30 of another, in axes of their own."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(2, width, generator=generator)
    return centres.repeat_interleave(30, dim=0) + 0.1 * torch.randn(60, width, generator=generator)


def test_teachers_that_find_the_same_alike_agree() -> None:
    valid = torch.ones(60, dtype=torch.bool)
    found = agreement(two_things(8, 0), two_things(20, 1), valid)
    assert float(found.min()) > 0.8


def test_a_point_that_one_teacher_mistakes_counts_less() -> None:
    first, second = two_things(8, 0), two_things(20, 1)
    second[3] = second[45]
    found = agreement(first, second, torch.ones(60, dtype=torch.bool))
    assert float(found[3]) == 0
    assert float(found[4]) > 0.8


def test_length_and_axes_of_rows_do_not_matter() -> None:
    first, second = two_things(8, 0), two_things(8, 1)
    turn = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(2)))[0]
    valid = torch.ones(60, dtype=torch.bool)
    assert torch.allclose(
        agreement(first, second, valid), agreement(3 * first @ turn, second, valid), atol=1e-5
    )


def test_what_was_not_observed_is_zero_and_never_looked_at() -> None:
    first, second = two_things(8, 0), two_things(8, 1)
    first[0] = torch.nan
    valid = torch.ones(60, dtype=torch.bool)
    valid[0] = False
    found = agreement(first, second, valid)
    assert float(found[0]) == 0
    assert bool(torch.isfinite(found).all())


@pytest.mark.parametrize("num", [0, 1, 2])
def test_too_few_points_agree_on_nothing(num: int) -> None:
    valid = torch.zeros(60, dtype=torch.bool)
    valid[:num] = True
    assert float(agreement(two_things(8, 0), two_things(8, 1), valid).abs().max()) == 0


def test_too_few_anchors_are_refused() -> None:
    with pytest.raises(ValueError, match="3 anchors"):
        agreement(
            torch.rand(9, 2), torch.rand(9, 2), torch.ones(9, dtype=torch.bool), num_anchors=2
        )
