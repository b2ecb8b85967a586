"""Component codes: a row as a weighted sum of a few of 256 components that a scene's rows share.

Components are unit vectors learnt from a sample: rows are coded with them, then the components are
solved for given the codes, in turns. Where all rows are zero or more (class probabilities),
components and weights are as well, so decoded rows are too. A coded row keeps its length.

Sources:
    Zou et al., M3: 3D-Spatial Multimodal Memory, ICLR 2025, section 3 (principal scene components).
    Pati et al., Orthogonal Matching Pursuit, Asilomar 1993 (the codes).
    Engan et al., Method of Optimal Directions for Frame Design, ICASSP 1999 (the components).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from lifting.backends.jit import jit

# As many as a byte can name, so that no byte of a damaged or foreign file points outside.
NUM_COMPONENTS = 256
PER_ROW = 8
# Sixty rows a component, as for product quantisation.
SAMPLE_ROWS = 16384
_TURNS = 6
# A row of length 1 is coded when no component explains more of what is left than half precision
# could hold.
_NOTHING_LEFT = 2e-4
# Refits after each new component: weights change by less than 1 % in later ones.
_SWEEPS = 12

Rows = npt.NDArray[np.float32]
Half = npt.NDArray[np.float16]
Codes = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, eq=False)
class Coded:
    """Rows in codes.

    Attributes:
        codes: Components of each row, `[N, PER_ROW]`; those that are not needed have weight 0.
        weights: Their weights, for a row of length of about 1.
        scale: What a row is multiplied by; it gives the row its length. 0 for a row of zeros.
    """

    codes: Codes
    weights: Half
    scale: npt.NDArray[np.float32]


def train(sample: Rows, seed: int = 0) -> Half:
    """Components `[256, C]` of a sample, of length 1; those that no row needs are zero.

    Args:
        sample: Rows to learn from, `[S, C]`; S may be 0. Their lengths do not count.
        seed: Of the first components.
    """
    bank = np.zeros((NUM_COMPONENTS, sample.shape[1]), dtype=np.float32)
    # Rows that are not numbers are refused by name when they are written, not here.
    rows = _directions(sample[np.isfinite(sample).all(axis=1)])[0]
    rows = rows[np.abs(rows).max(axis=1, initial=0.0) > 0]
    rng = np.random.default_rng(seed)
    first = rows[rng.permutation(len(rows))[:NUM_COMPONENTS]]
    bank[: len(first)] = first
    if len(rows) <= NUM_COMPONENTS or not sample.shape[1]:
        return bank.astype(np.float16)  # every row is a component
    positive = bool(rows.min(initial=0.0) >= 0)
    for _ in range(_TURNS):
        codes, weights = _pursued(rows, bank, positive=positive)
        bank = _refit(rows, codes, weights, bank, positive=positive)
    return bank.astype(np.float16)


def encode(rows: Rows, bank: Half) -> Coded:
    """Codes of rows: greedily the component that explains most of what is left, then a refit."""
    parts = bank.astype(np.float32)
    unit, length = _directions(rows)
    positive = bool(parts.min(initial=0.0) >= 0 and rows.min(initial=0.0) >= 0)
    codes, found = _pursued(unit, parts, positive=positive)
    weights = found.astype(np.float16)
    kept = _lengths(codes, weights, parts @ parts.T)
    scale = np.where(kept > 0, length / np.where(kept > 0, kept, 1.0), 0.0)
    most = np.finfo(np.float32).max
    return Coded(codes=codes, weights=weights, scale=np.minimum(scale, most).astype(np.float32))


def decode(coded: Coded, bank: Half) -> Rows:
    """The rows that codes stand for, `[N, C]`."""
    return _combine(coded, bank.astype(np.float32))


def products(coded: Coded, bank: Half, vectors: Rows) -> Rows:
    """Dot products `[N, Q]` of coded rows with vectors `[Q, C]`.

    Every component is multiplied once; a row then costs eight numbers a vector, whatever its width.
    """
    return _combine(coded, np.ascontiguousarray(bank.astype(np.float32) @ vectors.T))


def norms(coded: Coded, bank: Half) -> npt.NDArray[np.float32]:
    """Lengths `[N]` of coded rows, from the products of components with each other."""
    parts = bank.astype(np.float32)
    return _lengths(coded.codes, coded.weights, parts @ parts.T) * coded.scale


def _directions(rows: Rows) -> tuple[Rows, npt.NDArray[np.float64]]:
    """Rows at length 1, and their lengths; zero rows stay zero. No square can overflow."""
    largest = np.abs(rows).max(axis=1, initial=0.0)
    # Below the smallest normal number an inverse would overflow: such a row is zero.
    seen = largest >= np.finfo(np.float32).tiny
    inside = rows / np.where(seen, largest, 1.0)[:, None]
    inside[~seen] = 0
    length = np.linalg.norm(inside, axis=1)
    unit = inside / np.where(seen, length, 1.0)[:, None]
    return unit.astype(np.float32), length.astype(np.float64) * largest


def _pursued(rows: Rows, bank: Rows, *, positive: bool) -> tuple[Codes, Rows]:
    codes = np.zeros((len(rows), PER_ROW), dtype=np.uint8)
    weights = np.zeros((len(rows), PER_ROW), dtype=np.float32)
    _pursue(rows @ bank.T, bank @ bank.T, positive, codes, weights)
    return codes, weights


def _refit(rows: Rows, codes: Codes, weights: Rows, bank: Rows, *, positive: bool) -> Rows:
    """Components that make the coded sample as near to its rows as codes allow."""
    row = np.repeat(np.arange(len(rows)), PER_ROW)
    entries = (weights.ravel(), (row, codes.ravel()))
    share = csr_matrix(entries, shape=(len(rows), len(bank)), dtype=np.float32)
    # A thousandth of the old components keeps the system solvable and rare ones steady.
    gram = (share.T @ share).toarray().astype(np.float64)
    gram[np.diag_indices(len(gram))] += 1e-3
    fresh = np.linalg.solve(gram, share.T @ rows + 1e-3 * bank)
    fresh = np.maximum(fresh, 0) if positive else fresh
    fresh = _directions(fresh.astype(np.float32))[0]
    missed = rows - share @ bank
    left = np.einsum("sc,sc->s", missed, missed)
    idle = np.flatnonzero(np.bincount(codes[weights != 0], minlength=len(bank)) < 2)
    # What one row alone uses, or none, starts again at the rows that are told worst.
    fresh[idle] = rows[np.argsort(-left, kind="stable")[: len(idle)]]
    return fresh


def _combine(coded: Coded, table: Rows) -> Rows:
    found = np.empty((len(coded.codes), table.shape[1]), dtype=np.float32)
    # numba has no half precision; eight numbers a row are small beside what is made of them.
    weights = coded.weights.astype(np.float32) * np.asarray(coded.scale)[:, None]
    _sum_parts(np.ascontiguousarray(coded.codes), weights, table, found)
    return found


def _lengths(codes: Codes, weights: Half, gram: Rows) -> npt.NDArray[np.float32]:
    found = np.empty(len(codes), dtype=np.float32)
    _gram_lengths(np.ascontiguousarray(codes), weights.astype(np.float32), gram, found)
    return found


@jit
def _pursue(dots: Rows, gram: Rows, positive: bool, codes: Codes, weights: Rows) -> None:
    num = dots.shape[1]
    left = np.empty(num, dtype=np.float32)
    for i in range(dots.shape[0]):
        for step in range(codes.shape[1]):
            left[:] = dots[i]
            for a in range(step):
                here, value = codes[i, a], weights[i, a]
                for k in range(num):
                    left[k] -= value * gram[here, k]
            best = _most_telling(left, positive)
            if best < 0:
                break
            codes[i, step] = best
            _fit_weights(dots[i], gram, positive, codes[i, : step + 1], weights[i, : step + 1])


@jit
def _most_telling(left: Rows, positive: bool) -> int:
    """The component with the largest product with what is left of a row; -1 if there is none."""
    best, largest = -1, np.float32(_NOTHING_LEFT)
    for k in range(left.shape[0]):
        value = left[k] if positive else abs(left[k])
        if value > largest:
            best, largest = k, value
    return best


@jit
def _fit_weights(dots: Rows, gram: Rows, positive: bool, codes: Codes, weights: Rows) -> None:
    """Least squares over the chosen components, one weight at a time, from the last weights."""
    for _ in range(_SWEEPS):
        for a in range(codes.shape[0]):
            here = codes[a]
            value = dots[here]
            for b in range(codes.shape[0]):
                if b != a:
                    value -= gram[here, codes[b]] * weights[b]
            value /= gram[here, here]
            weights[a] = max(value, np.float32(0)) if positive else value


@jit
def _sum_parts(codes: Codes, weights: Rows, table: Rows, found: Rows) -> None:
    for i in range(codes.shape[0]):
        for q in range(table.shape[1]):
            found[i, q] = 0.0
        for a in range(codes.shape[1]):
            code, weight = codes[i, a], weights[i, a]
            for q in range(table.shape[1]):
                found[i, q] += weight * table[code, q]


@jit
def _gram_lengths(codes: Codes, weights: Rows, gram: Rows, found: Rows) -> None:
    for i in range(codes.shape[0]):
        total = np.float32(0)
        for a in range(codes.shape[1]):
            for b in range(codes.shape[1]):
                total += weights[i, a] * weights[i, b] * gram[codes[i, a], codes[i, b]]
        found[i] = np.sqrt(max(total, np.float32(0)))
