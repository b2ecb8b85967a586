"""A TFLite network run by LiteRT, one input at a time, with what happens inside it.

The files are made for phones: their batch of one is built into reshapes, so a batch is a loop.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from xmodal.errors import CheckpointError
from xmodal.teachers.weights import need


@dataclass(frozen=True, eq=False)
class Tap:
    """A tensor of a network: its number, and how its whole numbers become real ones."""

    index: int
    name: str
    shape: tuple[int, ...]
    scale: float
    zero: int

    def real(self, raw: NDArray[Any]) -> Tensor:
        """Values as float32; `(whole - zero) * scale` where the network is quantised."""
        values = torch.from_numpy(raw.astype(np.float32))
        return values if self.scale == 0 else (values - self.zero) * self.scale


class LiteRtNetwork:
    """One TFLite file in memory.

    Args:
        path: The file.

    Raises:
        BackendError: If `ai-edge-litert` is not installed.
        CheckpointError: If the file is no network.
    """

    def __init__(self, path: Path) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError:
            raise need("ai-edge-litert", "audio") from None
        self.path = path
        with warnings.catch_warnings():
            # It warns of memory: every tensor inside the network keeps its own. For a network of a
            # few MB that is little, and an embedding cannot be read in another way.
            warnings.filterwarnings("ignore", message=".*preserve_all_tensors", module="ai_edge")
            try:
                self._net: Any = Interpreter(
                    model_path=str(path), num_threads=1, experimental_preserve_all_tensors=True
                )
                self._net.allocate_tensors()
            except (ValueError, RuntimeError) as error:
                raise CheckpointError(
                    str(path),
                    wanted="a TFLite network",
                    got=str(error).splitlines()[0][:200],
                    fix="download the file again",
                ) from error
        self.taps = tuple(_tap(one) for one in self._net.get_tensor_details())
        self.input = self.taps[self._net.get_input_details()[0]["index"]]
        self.output = self.taps[self._net.get_output_details()[0]["index"]]

    def find(self, what: str, test: Callable[[Tap], bool]) -> Tap:
        """The one tensor that passes a test; numbers of tensors change when a file is converted.

        Raises:
            CheckpointError: If there is none, or more than one.
        """
        found = [tap for tap in self.taps if test(tap)]
        if len(found) == 1:
            return found[0]
        raise CheckpointError(
            str(self.path),
            wanted=f"one tensor for {what}",
            got="none" if not found else ", ".join(f"{t.name} {list(t.shape)}" for t in found[:4]),
            fix="use the file that this teacher was made for",
        )

    def constant(self, tap: Tap) -> Tensor:
        """A tensor of weights, as float32."""
        return tap.real(self._net.get_tensor(tap.index))

    def run(
        self, inputs: Float[Tensor, "B ..."], taps: Mapping[str, Tap]
    ) -> dict[str, Float[Tensor, "B C"]]:
        """What the tapped tensors hold for each input, flattened."""
        found: dict[str, list[Tensor]] = {name: [] for name in taps}
        for one in inputs.to(torch.float32).numpy():
            self._net.set_tensor(self.input.index, one[None])
            self._net.invoke()
            for name, tap in taps.items():
                found[name].append(tap.real(self._net.get_tensor(tap.index)).flatten())
        return {
            name: torch.stack(rows) if rows else torch.zeros(0, _size(taps[name].shape))
            for name, rows in found.items()
        }


def _tap(details: Mapping[str, Any]) -> Tap:
    scale, zero = details["quantization"]
    shape = tuple(int(size) for size in details["shape"])
    return Tap(int(details["index"]), str(details["name"]), shape, float(scale), int(zero))


def _size(shape: Sequence[int]) -> int:
    return int(np.prod(shape))
