"""Classification of samples and linear probes, against cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from xmodal.evaluate.classification import classify
from xmodal.evaluate.probe import fit_probe


def test_a_case_worked_by_hand() -> None:
    scores = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]])
    truth = np.array([0, 0, 1, 1])
    found = classify(scores, truth, ["a", "a", "b", "b"])
    assert found.accuracy[0] == 0.75
    assert found.balanced[0] == 0.75
    assert found.confusion.tolist() == [[1, 1, 0], [0, 2, 0]]
    assert found.recall.tolist() == [0.5, 1.0]
    assert found.precision.tolist() == [1.0, pytest.approx(2 / 3)]
    # class 0: the truths are first and second; class 1: first and second as well
    assert found.ap.tolist() == [1.0, 1.0]
    assert found.unit == "groups"


def test_balanced_accuracy_counts_classes_alike() -> None:
    scores = np.array([[1.0, 0.0, 0.0]] * 9 + [[1.0, 0.0, 0.0]])
    truth = np.array([0] * 9 + [1])
    found = classify(scores, truth, ["g"] * 10)
    assert found.accuracy[0] == 0.9
    assert found.balanced[0] == 0.5
    assert np.isnan(found.recall[2])
    assert found.unit == "recordings"


def test_what_was_not_observed_is_wrong() -> None:
    scores = np.array([[0.9, 0.1], [np.nan, np.nan]])
    found = classify(scores, np.array([0, 0]), ["a", "b"])
    assert found.accuracy[0] == 0.5
    assert found.confusion.tolist() == [[1, 0, 1], [0, 0, 0]]


def test_intervals_are_over_groups() -> None:
    """Two groups of many samples, one all right and one all wrong: nothing is known."""
    scores = np.eye(2)[[0] * 100]
    truth = np.array([0] * 50 + [1] * 50)
    found = classify(scores, truth, ["a"] * 50 + ["b"] * 50)
    assert found.accuracy == (0.5, 0.0, 1.0)


def test_calibration_needs_probabilities() -> None:
    scores = np.eye(2)[[0, 1]]
    assert classify(scores, np.array([0, 1]), ["a", "b"]).calibration_error == 0
    found = classify(scores, np.array([0, 1]), ["a", "b"], probabilities=False)
    assert np.isnan(found.calibration_error)


def test_no_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        classify(np.zeros((0, 2)), np.zeros(0, dtype=np.int64), [])


def rows(num: int, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """Three classes along three axes, of very different scale, in noise."""
    draw = torch.Generator().manual_seed(seed)
    truth = torch.arange(num) % 3
    clean = torch.eye(3)[truth] * torch.tensor([1.0, 100.0, 1e-3])
    noise = torch.randn(num, 3, generator=draw) * torch.tensor([0.2, 20.0, 2e-4])
    return clean + noise + 5.0, truth.numpy()


def test_a_probe_reads_classes_of_any_scale() -> None:
    given, truth = rows(90)
    groups = [f"g{i % 4}" for i in range(90)]
    probe = fit_probe(given, truth, groups, 3)
    other, wanted = rows(60, seed=1)
    scores = probe.scores(other)
    assert scores.sum(1) == pytest.approx(np.ones(60))
    assert (scores.argmax(1) == wanted).mean() > 0.95
    assert 0 < probe.validated_loss < 0.3


def test_a_probe_is_the_same_each_time() -> None:
    given, truth = rows(30)
    first, again = (fit_probe(given, truth, ["one"] * 30, 3) for _ in range(2))
    assert torch.equal(first.weight, again.weight)
    assert first.strength == again.strength


def test_a_probe_of_noise_takes_the_strongest_penalty() -> None:
    draw = torch.Generator().manual_seed(0)
    truth = (torch.arange(40) % 2).numpy()
    given = torch.cat([torch.randn(40, 60, generator=draw), torch.zeros(40, 1)], dim=1)
    probe = fit_probe(given, truth, [str(i % 5) for i in range(40)], 2, strengths=(1e-4, 1e4))
    assert probe.scores(given).std() < 0.5
    assert probe.strength == 1e4


def test_a_probe_keeps_to_the_optimum() -> None:
    """The gradient of the penalised loss is zero there."""
    given, truth = rows(60)
    probe = fit_probe(given, truth, ["one"] * 60, 3, strengths=(0.1,))
    seen = (given.double() - probe.mean) / probe.std
    weight = probe.weight.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(seen @ weight + probe.bias, torch.from_numpy(truth))
    (gradient,) = torch.autograd.grad(loss + 0.05 * weight.square().sum(), weight)
    assert float(gradient.abs().max()) < 1e-4


def test_a_probe_of_one_row_for_each_class_chooses_nothing() -> None:
    given, truth = rows(3)
    probe = fit_probe(given, truth, ["a", "b", "c"], 3)
    assert np.isnan(probe.validated_loss)
    assert probe.strength == 1e-2
    assert (probe.scores(given).argmax(1) == truth).all()


@pytest.mark.parametrize("truth", [[], [1, 1, 1]])
def test_a_probe_needs_two_classes(truth: list[int]) -> None:
    given = torch.zeros(len(truth), 2)
    with pytest.raises(ValueError, match="two classes"):
        fit_probe(given, np.array(truth, dtype=np.int64), ["g"] * len(truth), 2)
