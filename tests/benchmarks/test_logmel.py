"""The benchmark of log-mel maps, in small."""

from __future__ import annotations

import pytest

from benchmarks import logmel
from benchmarks.report import _TIMED, _coded


@pytest.mark.parametrize("kind", ["yamnet", "general"])
@pytest.mark.parametrize("batch", [1, 3])
def test_both_sides_give_the_same_maps(kind: str, batch: int) -> None:
    case = logmel.build(kind=kind, seconds=0.6, batch=batch)
    assert case.error() < 1e-5


def test_every_setting_has_its_words_and_the_difference_is_told() -> None:
    assert {f"logmel{suffix}" for suffix in logmel.BENCHMARK.settings} <= set(_TIMED)
    (line,) = _coded({"name": "logmel", "error": 2e-6, "error_general": 3e-5})
    assert "3.0e-05" in line
