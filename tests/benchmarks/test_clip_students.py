"""Both arms of the benchmark of clip students give the same rows, and settings name real ops."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from benchmarks.clip_students import BENCHMARK, SETTINGS, build, student

pytest.importorskip("onnxruntime")


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """The benchmark takes one thread; tests after it take what they had."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_both_arms_give_the_same_rows() -> None:
    case = build("imu_tcn", "micro")
    assert case.error() < 1e-4
    found = case.extra()
    assert found["parameters"] < 200_000
    assert 0 < found["real_time"] < 1
    assert found["window_ms"] == pytest.approx(found["real_time"] * 3200)


@pytest.mark.parametrize("setting", SETTINGS.values())
def test_settings_name_ops_and_presets(setting: dict[str, str]) -> None:
    assert student(**setting).size == setting["size"]


def test_unknown_ops_are_refused() -> None:
    with pytest.raises(KeyError):
        student("no_such_student", "tiny")
    assert BENCHMARK.name == "clip_students"
