"""`LiftOperator`: every lift is a sparse matrix.

Target row i is a weighted sum of source rows j, so a lift is a CSR matrix W (targets x sources):
points from pixels, patches or masks of many views, voxels and segments from points, bird's-eye
cells from (pixel, depth) pairs, splats from pixels. It is built once from geometry and applied to
features of any width. Weights are raw; the division by their sum happens once, at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from lifting.backends import csr_apply, entry_rows, transpose_pattern
from lifting.moments import Lifted, Moments

__all__ = ["LiftOperator", "Lifted", "Moments"]


@dataclass(frozen=True, kw_only=True, eq=False)
class LiftOperator:
    """A sparse matrix W in CSR form, targets x sources.

    Attributes:
        crow: Row pointers; entries of row i are `crow[i]:crow[i + 1]`.
        col: Source of each entry.
        weight: Raw weight of each entry. May require a gradient.
        num_sources: Number of columns.

    Raises:
        ValueError: If the pattern is inconsistent or a weight is not finite.
    """

    crow: Int64[Tensor, " M1"]
    col: Int64[Tensor, " nnz"]
    weight: Float[Tensor, " nnz"]
    num_sources: int

    def __post_init__(self) -> None:
        _check_pattern(self.crow, self.col, self.num_sources)
        _check_weight(self.weight, self.col)

    # ---- construction ---------------------------------------------------------------------

    @staticmethod
    def from_coo(
        row: Int64[Tensor, " nnz"],
        col: Int64[Tensor, " nnz"],
        weight: Float[Tensor, " nnz"],
        *,
        shape: tuple[int, int],
    ) -> LiftOperator:
        """Build from (row, column, weight) triples in any order.

        Entries are sorted by row, then column. Duplicates are kept, they add up in `apply`;
        `coalesce` merges them.

        Args:
            row: Target of each entry.
            col: Source of each entry.
            weight: Weight of each entry; gradients flow back to it.
            shape: Number of targets and of sources.

        Raises:
            ValueError: If an index lies outside `shape` or the lengths differ.
        """
        num_targets, num_sources = shape
        if not row.shape == col.shape == weight.shape:
            raise ValueError(
                f"row, col and weight must be equally long, got {row.numel()}, {col.numel()} "
                f"and {weight.numel()}"
            )
        _check_range("row", row, num_targets)
        _check_range("column", col, num_sources)
        order = torch.argsort(_keys(row, col, num_sources, num_targets), stable=True)
        return LiftOperator(
            crow=_pointers(row, num_targets),
            col=col[order],
            weight=weight[order],
            num_sources=num_sources,
        )

    @staticmethod
    def identity(num: int, *, dtype: torch.dtype = torch.float32) -> LiftOperator:
        """The operator that changes nothing."""
        return LiftOperator(
            crow=torch.arange(num + 1),
            col=torch.arange(num),
            weight=torch.ones(num, dtype=dtype),
            num_sources=num,
        )

    def with_weight(self, weight: Float[Tensor, " nnz"]) -> LiftOperator:
        """The same pattern with other weights, for example a network's depth probabilities."""
        _check_weight(weight, self.col)
        result = self._derived(self.crow, self.col, weight)
        for name in ("row", "_transposed"):  # these depend on the pattern alone: keep them
            if name in self.__dict__:
                result.__dict__[name] = self.__dict__[name]
        return result

    def to(
        self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> LiftOperator:
        """Move to a device, change the weights' dtype, or both."""
        return LiftOperator(
            crow=self.crow.to(device=device),
            col=self.col.to(device=device),
            weight=self.weight.to(device=device, dtype=dtype),
            num_sources=self.num_sources,
        )

    def _derived(self, crow: Tensor, col: Tensor, weight: Tensor) -> LiftOperator:
        """An operator over the same sources that is correct by construction: not checked again.

        Checks cost more than the work itself when there are thousands of small operators.
        """
        result = object.__new__(LiftOperator)
        parts = {"crow": crow, "col": col, "weight": weight, "num_sources": self.num_sources}
        result.__dict__.update(parts)
        return result

    # ---- shape ----------------------------------------------------------------------------

    @property
    def num_targets(self) -> int:
        """Number of rows."""
        return self.crow.numel() - 1

    @property
    def nnz(self) -> int:
        """Number of stored entries."""
        return self.col.numel()

    @property
    def shape(self) -> tuple[int, int]:
        """Targets and sources."""
        return self.num_targets, self.num_sources

    @cached_property
    def row(self) -> Int64[Tensor, " nnz"]:
        """Target of each entry."""
        return entry_rows(self.crow, self.nnz)

    @cached_property
    def _transposed(self) -> tuple[Tensor, Tensor, Tensor]:
        """Pointers and columns of the transpose, and the order that its weights take."""
        return transpose_pattern(self.crow, self.col, self.num_sources)

    # ---- application ----------------------------------------------------------------------

    def apply(
        self, features: Float[Tensor, "S C"], *, backend: str = "auto"
    ) -> Float[Tensor, "M C"]:
        """The raw product W f, differentiable in features and in weight.

        Args:
            features: One row per source. Half precision is accumulated and returned in float32.
            backend: Who multiplies; see `lifting.backends.resolve_backend`.

        Raises:
            ValueError: If the number of rows differs from `num_sources`.
        """
        if features.ndim != 2 or features.shape[0] != self.num_sources:
            raise ValueError(
                f"a lift from {self.num_sources} sources needs features of shape "
                f"[{self.num_sources}, C], got {list(features.shape)}"
            )
        dtype = torch.promote_types(features.dtype, torch.float32)
        return csr_apply(
            self.crow,
            self.col,
            self.weight,
            features.to(dtype),
            backend,
            transpose=lambda: self._transposed,
        )

    def adjoint(self, x: Float[Tensor, "M C"], *, backend: str = "auto") -> Float[Tensor, "S C"]:
        """The raw transpose W.T x. For alpha weights this is exactly alpha compositing."""
        return self.transpose().apply(x, backend=backend)

    def row_sum(self) -> Float[Tensor, " M"]:
        """Sum of weights per target: coverage. Differentiable."""
        total = torch.zeros(self.num_targets, dtype=self.weight.dtype, device=self.weight.device)
        return total.index_add(0, self.row, self.weight)

    def mean(self) -> LiftOperator:
        """Weights divided by their row's sum; rows that sum to zero become empty of weight.

        Raises:
            ValueError: If a weight is negative: a mean of signed weights has no meaning.
        """
        self._require_nonnegative()
        total = self.row_sum()
        safe = torch.where(total > 0, total, torch.ones_like(total))
        return self.with_weight(self.weight / safe[self.row])

    def lift(self, features: Float[Tensor, "S C"], *, backend: str = "auto") -> Lifted:
        """Weighted mean of the sources of each target, with its confidence.

        Raises:
            ValueError: If a feature that is used is not finite or a weight is negative.
        """
        return self.moments(features, backend=backend).finish()

    def moments(self, features: Float[Tensor, "S C"], *, backend: str = "auto") -> Moments:
        """Sums that add up over views; this operator counts as one view.

        Raises:
            ValueError: If a feature that is used is not finite or a weight is negative.
        """
        self._require_nonnegative()
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        length = self._entry_lengths(features)
        directed = (length > 0) & length.isfinite()
        inverse = directed / torch.where(directed, length, torch.ones_like(length))
        total = self.apply(features, backend=backend)
        # A bad feature shows in the sums that it enters; sources that nobody reads do no harm.
        if not _all_finite(total):
            raise ValueError("features to lift must be finite, got NaN or infinity")
        weight = self.row_sum().to(features.dtype)
        return Moments(
            sum=total,
            weight=weight,
            count=(weight > 0).to(torch.int64),
            resultant=self.with_weight(self.weight.to(inverse) * inverse).apply(
                features, backend=backend
            ),
        )

    # ---- algebra --------------------------------------------------------------------------

    def transpose(self) -> LiftOperator:
        """W.T, sources x targets."""
        crow, col, order = self._transposed
        return LiftOperator(
            crow=crow, col=col, weight=self.weight[order], num_sources=self.num_targets
        )

    def scale_rows(self, factor: Float[Tensor, " M"]) -> LiftOperator:
        """diag(factor) @ W: one factor per target, for example visibility x quality."""
        return self.with_weight(self.weight * factor.to(self.weight.dtype)[self.row])

    def scale_columns(self, factor: Float[Tensor, " S"]) -> LiftOperator:
        """W @ diag(factor): one factor per source, for example a mask's predicted IoU."""
        return self.with_weight(self.weight * factor.to(self.weight.dtype)[self.col])

    def select_rows(self, index: Int64[Tensor, " K"]) -> LiftOperator:
        """The operator whose row k is row `index[k]` of this one.

        Raises:
            ValueError: If an index lies outside the targets.
        """
        _check_range("row", index, self.num_targets)
        crow, entry = _expand(self.crow, index)
        return self._derived(crow, self.col[entry], self.weight[entry])

    def drop_zeros(self) -> LiftOperator:
        """Without the entries of weight zero, so that their sources are never read."""
        keep = self.weight != 0
        if bool(keep.all()):
            return self
        crow = _pointers(self.row[keep], self.num_targets)
        return self._derived(crow, self.col[keep], self.weight[keep])

    def coalesce(self) -> LiftOperator:
        """Merge entries with equal row and column by adding their weights; sorts columns."""
        keys = _keys(self.row, self.col, self.num_sources, self.num_targets)
        unique, position = torch.unique(keys, sorted=True, return_inverse=True)
        weight = torch.zeros(unique.numel(), dtype=self.weight.dtype, device=self.weight.device)
        row = torch.div(unique, max(self.num_sources, 1), rounding_mode="floor")
        return LiftOperator(
            crow=_pointers(row, self.num_targets),
            col=unique - row * self.num_sources,
            weight=weight.index_add(0, position, self.weight),
            num_sources=self.num_sources,
        )

    def __matmul__(self, other: LiftOperator) -> LiftOperator:
        """Compose: lift by `other` first, then by this one. Raw weights multiply.

        A mean of means is `self.mean() @ other.mean()`, by intent of the caller.

        Raises:
            ValueError: If `other` does not end where this operator starts.
        """
        if self.num_sources != other.num_targets:
            raise ValueError(
                f"operators of shape {self.shape} and {other.shape} do not compose: the first "
                "must have as many sources as the second has targets"
            )
        crow, entry = _expand(other.crow, self.col)
        weight = self.weight[entry_rows(crow, entry.numel())]
        return LiftOperator(
            crow=crow[self.crow],
            col=other.col[entry],
            weight=weight * other.weight[entry].to(weight.dtype),
            num_sources=other.num_sources,
        ).coalesce()

    def to_dense(self) -> Float[Tensor, "M S"]:
        """The full matrix; for looking at small operators."""
        dense = torch.zeros(self.shape, dtype=self.weight.dtype, device=self.weight.device)
        return dense.index_put((self.row, self.col), self.weight, accumulate=True)

    def _entry_lengths(self, features: Tensor) -> Tensor:
        """Length of each entry's feature."""
        if 2 * self.nnz < self.num_sources:  # most sources are not used: leave them unread
            return torch.linalg.vector_norm(features.index_select(0, self.col), dim=1)
        return torch.linalg.vector_norm(features, dim=1)[self.col]

    def _require_nonnegative(self) -> None:
        if self.nnz and bool((self.weight.detach() < 0).any()):
            raise ValueError(
                "an average needs weights of zero or more, got a negative weight; "
                "use apply() for signed weights"
            )


def _pointers(row: Tensor, num_rows: int) -> Tensor:
    """CSR row pointers of unsorted row indices."""
    crow = torch.zeros(num_rows + 1, dtype=torch.int64, device=row.device)
    torch.cumsum(torch.bincount(row, minlength=num_rows), 0, out=crow[1:])
    return crow


def _expand(crow: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Pointers and entry numbers of the rows `index` of a CSR pattern, laid end to end."""
    start, length = crow[index], crow.diff()[index]
    pointers = torch.zeros(index.numel() + 1, dtype=torch.int64, device=crow.device)
    torch.cumsum(length, 0, out=pointers[1:])
    total = int(pointers[-1])
    offset = (start - pointers[:-1])[entry_rows(pointers, total)]
    return pointers, offset + torch.arange(total, device=crow.device)


def _keys(row: Tensor, col: Tensor, num_sources: int, num_targets: int) -> Tensor:
    """One sortable number per entry."""
    if num_sources * num_targets >= 1 << 63:
        raise ValueError(
            f"an operator of {num_targets} x {num_sources} has more cells than int64 can number"
        )
    return row * num_sources + col


def _all_finite(x: Tensor) -> bool:
    """Whether no number is NaN or infinite; one pass, no copy."""
    if not x.numel():
        return True
    low, high = torch.aminmax(x.detach())
    return bool(torch.isfinite(low) & torch.isfinite(high))


def _check_range(name: str, index: Tensor, size: int) -> None:
    if not index.numel():
        return
    low, high = (int(v) for v in torch.aminmax(index))
    if low < 0 or high >= size:
        wrong = low if low < 0 else high
        raise ValueError(f"{name} index {wrong} lies outside [0, {size})")


def _check_weight(weight: Tensor, col: Tensor) -> None:
    if weight.shape != col.shape:
        raise ValueError(
            f"a lift operator needs one weight for each of its {col.numel()} entries, "
            f"got {weight.numel()}"
        )
    if not _all_finite(weight):
        raise ValueError("a lift operator needs finite weights, got NaN or infinity")


def _check_pattern(crow: Tensor, col: Tensor, num_sources: int) -> None:
    if crow.ndim != 1 or crow.numel() < 1 or crow.dtype != torch.int64:
        raise ValueError("crow must be a vector of int64 with one element more than targets")
    if col.ndim != 1 or col.dtype != torch.int64:
        raise ValueError("col must be a vector of int64, one per entry")
    if int(crow[0]) != 0 or int(crow[-1]) != col.numel():
        raise ValueError(
            f"crow must run from 0 to the number of entries {col.numel()}, got "
            f"{int(crow[0])} to {int(crow[-1])}"
        )
    if crow.numel() > 1 and bool((crow.diff() < 0).any()):
        raise ValueError("crow must not decrease")
    _check_range("column", col, num_sources)
