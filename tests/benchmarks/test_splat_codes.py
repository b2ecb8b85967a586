"""The benchmark of queries on codes, in small."""

from __future__ import annotations

import torch

from benchmarks import splat_codes


def test_both_sides_find_the_same_prompt_for_nearly_every_row() -> None:
    case = splat_codes.build(num_rows=3000, channels=64, num_prompts=5, compare=False)
    ours, peer = case.ours(), case.peer()
    assert isinstance(ours, torch.Tensor)
    assert isinstance(peer, torch.Tensor)
    assert ours.shape == peer.shape == (3000,)
    assert set(ours.tolist()) <= set(range(5))
    assert case.error() < 0.01
