"""Register tiles of the sparse convolution, written in LLVM through numba.

numba compiles loops over arrays, but keeps running sums of several rows in memory: two or three
times slower than a processor can multiply. These two intrinsics hold a tile of sums in vector
registers while they run over the inner index; everything around them is ordinary numba code. LLVM
splits a vector that a processor is too narrow for, so they run anywhere.

Rows are addressed in flat C-contiguous arrays and nothing is checked: callers own the bounds.
numba keeps compiled callers by the age of their own file: after a change here, touch theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_INTP = ir.IntType(64)


def _vector_bytes() -> int:
    """Width of this machine's vector registers."""
    try:
        return 64 if binding.get_host_cpu_features().get("avx512f", False) else 32
    except RuntimeError:  # llvmlite cannot ask every kind of processor
        return 32


VECTOR_BYTES = _vector_bytes()


class _Emitter:
    """Helps to write vector code for arrays of one float type."""

    def __init__(self, context: Any, builder: Any, array: Any, *, scalar: bool) -> None:
        self.builder = builder
        self.element: Any = context.get_value_type(array.dtype)
        self.bytes: int = array.dtype.bitwidth // 8
        self.lanes = 1 if scalar else VECTOR_BYTES // self.bytes
        self.vector: Any = ir.VectorType(self.element, self.lanes)
        # Fused where the processor can, which a call of `fma` would not leave to LLVM.
        self.multiply_add: Any = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(self.vector, [self.vector] * 3),
            f"llvm.fmuladd.v{self.lanes}f{array.dtype.bitwidth}",
        )

    def at(self, base: Any, index: Any) -> Any:
        """Pointer to an element."""
        return self.builder.gep(base, [index])

    def load(self, base: Any, index: Any) -> Any:
        """A vector from consecutive elements."""
        pointer = self.builder.bitcast(self.at(base, index), self.vector.as_pointer())
        return self.builder.load(pointer, align=self.bytes)

    def store(self, vector: Any, base: Any, index: Any) -> None:
        """A vector to consecutive elements."""
        pointer = self.builder.bitcast(self.at(base, index), self.vector.as_pointer())
        self.builder.store(vector, pointer, align=self.bytes)

    def spread(self, base: Any, index: Any) -> Any:
        """A vector of copies of one element."""
        value = self.builder.load(self.at(base, index), align=self.bytes)
        one = self.builder.insert_element(
            ir.Constant(self.vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0)
        )
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), None)
        return self.builder.shuffle_vector(one, ir.Constant(self.vector, ir.Undefined), zeros)

    def row(self, rows: Any, index: Any, width: Any) -> Any:
        """Flat position of the row that an index array names."""
        number = self.builder.load(self.at(rows, index))
        return self.builder.mul(self.builder.sext(number, _INTP), width)

    def lesser(self, a: Any, b: Any) -> Any:
        """The lesser of two numbers."""
        return self.builder.select(self.builder.icmp_signed("<", a, b), a, b)

    def accumulate(self, sums: list[list[Any]], left: list[Any], right: list[Any]) -> None:
        """Add the outer product of spread elements and vectors to the sums."""
        for r, a in enumerate(left):
            for v, b in enumerate(right):
                before = self.builder.load(sums[r][v])
                self.builder.store(self.builder.call(self.multiply_add, [a, b, before]), sums[r][v])

    def begin(self, base: Any, places: list[list[Any]]) -> list[list[Any]]:
        """Sums on the stack, which LLVM turns into registers, from what is in memory."""
        sums = [[cgutils.alloca_once(self.builder, self.vector) for _ in row] for row in places]
        for kept, row in zip(sums, places, strict=True):
            for slot, place in zip(kept, row, strict=True):
                self.builder.store(self.load(base, place), slot)
        return sums

    def end(self, base: Any, places: list[list[Any]], sums: list[list[Any]]) -> None:
        """Sums back to memory."""
        for kept, row in zip(sums, places, strict=True):
            for slot, place in zip(kept, row, strict=True):
                self.store(self.builder.load(slot), base, place)


def _data(context: Any, builder: Any, kinds: Any, arrays: Any) -> list[Any]:
    """Data pointers of a tuple of arrays."""
    values = cgutils.unpack_tuple(builder, arrays)
    return [
        context.make_array(kind)(context, builder, value).data
        for kind, value in zip(kinds, values, strict=True)
    ]


def product_tile(num_rows: int, num_vectors: int, *, scalar: bool = False) -> Callable[..., Any]:
    """`out[targets[p + r], col:] += x[sources[p + r]] @ w[:, col:]` for the rows r of a tile.

    The intrinsic takes the arrays `(x, w, out, sources, targets)` and the numbers `(p, end,
    w_begin, width_in, width_out, col)`; `w_begin` is where the matrix begins in the flat `w`. The
    targets of a tile differ. Where fewer pairs than rows are left before `end`, the last one is
    taken again: all its copies compute, and store, the same sums.

    Args:
        num_rows: Pairs of a tile.
        num_vectors: Vectors of output channels of a tile.
        scalar: With vectors of one channel, for what is left at the end of a row.
    """

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, w, out, sources, targets = _data(context, builder, signature.args[0], args[0])
        p, end, w_begin, width_in, width_out, col = cgutils.unpack_tuple(builder, args[1])
        code = _Emitter(context, builder, signature.args[0][0], scalar=scalar)
        steps = [_INTP(v * code.lanes) for v in range(num_vectors)]
        last = builder.sub(end, _INTP(1))
        pairs = [code.lesser(builder.add(p, _INTP(r)), last) for r in range(num_rows)]
        rows = [code.row(sources, pair, width_in) for pair in pairs]
        starts = [builder.add(code.row(targets, pair, width_out), col) for pair in pairs]
        places = [[builder.add(start, step) for step in steps] for start in starts]
        sums = code.begin(out, places)
        corner = builder.add(w_begin, col)
        with cgutils.for_range(builder, width_in) as loop:
            line = builder.add(corner, builder.mul(loop.index, width_out))
            right = [code.load(w, builder.add(line, step)) for step in steps]
            left = [code.spread(x, builder.add(row, loop.index)) for row in rows]
            code.accumulate(sums, left, right)
        code.end(out, places, sums)
        return context.get_dummy_value()

    @intrinsic
    def tile(typingctx: Any, arrays: Any, numbers: Any) -> Any:
        return types.void(arrays, types.UniTuple(types.int64, 6)), emit

    return tile


def outer_tile(num_rows: int, num_vectors: int, *, scalar: bool = False) -> Callable[..., Any]:
    """`w[row + r, col:] += sum over p of x[sources[p], row + r] * g[targets[p], col:]`.

    The intrinsic takes the arrays `(x, g, w, sources, targets)` and the numbers `(p_begin, p_end,
    w_begin, width_in, width_out, row, col)`.

    Args:
        num_rows: Input channels of a tile.
        num_vectors: Vectors of output channels of a tile.
        scalar: With vectors of one channel, for what is left at the end of a row.
    """

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, g, w, sources, targets = _data(context, builder, signature.args[0], args[0])
        numbers = cgutils.unpack_tuple(builder, args[1])
        p_begin, p_end, w_begin, width_in, width_out, row, col = numbers
        code = _Emitter(context, builder, signature.args[0][0], scalar=scalar)
        steps = [_INTP(v * code.lanes) for v in range(num_vectors)]
        channels = [builder.add(row, _INTP(r)) for r in range(num_rows)]
        corner = builder.add(w_begin, col)
        starts = [builder.add(corner, builder.mul(ci, width_out)) for ci in channels]
        places = [[builder.add(start, step) for step in steps] for start in starts]
        sums = code.begin(w, places)
        with cgutils.for_range(builder, builder.sub(p_end, p_begin)) as loop:
            pair = builder.add(p_begin, loop.index)
            source = code.row(sources, pair, width_in)
            target = builder.add(code.row(targets, pair, width_out), col)
            right = [code.load(g, builder.add(target, step)) for step in steps]
            left = [code.spread(x, builder.add(source, ci)) for ci in channels]
            code.accumulate(sums, left, right)
        code.end(w, places, sums)
        return context.get_dummy_value()

    @intrinsic
    def tile(typingctx: Any, arrays: Any, numbers: Any) -> Any:
        return types.void(arrays, types.UniTuple(types.int64, 7)), emit

    return tile
