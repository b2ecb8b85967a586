"""Everything that a training run must remember to go on as if it had never stopped."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from xmodal.atomic import remove_leftovers
from xmodal.errors import CheckpointError, UsageError
from xmodal.train.checkpoint import (
    SCHEMA,
    Checkpoint,
    checkpoint_path,
    checkpoints,
    fit_state,
    load_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass
class Counts:
    """What a run has been through.

    Attributes:
        skips: Steps that were skipped because something was not finite.
        halved: Whether pieces are half as large and twice as many since memory ran out.
    """

    skips: int = 0
    halved: bool = False


@dataclass(frozen=True, eq=False)
class Generators:
    """States of all random generators, and of the buffers that losses write while they run."""

    python: tuple[Any, ...]
    numpy: dict[str, Any]
    torch: Tensor
    cuda: Tensor | None
    buffers: list[Tensor]


@dataclass
class TrainingState:
    """Modules, optimiser and random generators of a run, and their checkpoints.

    Attributes:
        modules: Modules by name, those that are not trained included.
        rng: The loop's own generator.
        identity: What must be equal for a checkpoint to be continued (JSON values).
        folder: Where checkpoints are.
        keep: How many of the newest stay.
        log: Called with a record when something is worth saying.
        optimiser: AdamW over the parameters that learn now; set before anything is saved.
        counts: What the run has been through.
    """

    modules: Mapping[str, nn.Module]
    rng: np.random.Generator
    identity: Mapping[str, Any]
    folder: Path
    keep: int
    log: Callable[[dict[str, Any]], None]
    optimiser: torch.optim.AdamW | None = None
    counts: Counts = field(default_factory=Counts)

    def save(self, step: int) -> Path:
        """Write the checkpoint after `step` steps, and drop old ones.

        Raises:
            CheckpointError: If it cannot be written; earlier ones are intact.
        """
        tensors, meta = self.describe(self.generators())
        untouched: list[str] = []
        assert self.optimiser is not None, "set when the stage began"
        for name, parameter in self._parameters():
            moments = self.optimiser.state.get(parameter, {})
            if not moments:
                untouched.append(name)  # no loss has reached it in this stage
            for key, value in moments.items():
                tensors[f"optimiser/{name}/{key}"] = value
        path = checkpoint_path(self.folder, step)
        save_checkpoint(path, tensors, {"step": step, "untouched": untouched, **meta})
        prune_checkpoints(self.folder, self.keep)
        return path

    def describe(self, generators: Generators) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON values of modules and generators, without the optimiser."""
        tensors: dict[str, Tensor] = {"rng/torch": generators.torch}
        if generators.cuda is not None:
            tensors["rng/cuda"] = generators.cuda
        for prefix, module in self.modules.items():
            tensors |= {f"{prefix}/{name}": value for name, value in module.state_dict().items()}
        meta = {
            "identity": dict(self.identity),
            "counts": asdict(self.counts),
            "rng": {"python": _listed(generators.python), "numpy": generators.numpy},
        }
        return tensors, meta

    def open(self, resume: bool | Literal["auto"]) -> Checkpoint | None:
        """Read the newest checkpoint, if there is one and it is to be continued.

        Raises:
            UsageError: If there are checkpoints and `resume` is off, or of another run.
            CheckpointError: If one cannot be read.
        """
        remove_leftovers(self.folder)
        found = checkpoints(self.folder)
        if not found:
            return None
        if resume is False:
            raise UsageError(
                str(self.folder),
                wanted="a folder without checkpoints, since nothing is to be resumed",
                got=f"checkpoints up to {found[-1].name}",
                fix="pass --resume to go on, or choose another --out",
            )
        checkpoint = self._read(found, resume)
        self.refuse_other_run(checkpoint)
        return checkpoint

    def restore(self, checkpoint: Checkpoint, *, optimiser: bool) -> None:
        """Put modules, generators and, unless a new stage begins, the optimiser back.

        Raises:
            CheckpointError: If something does not fit.
        """
        for prefix, module in self.modules.items():
            fit_state(module, checkpoint, prefix)
        if optimiser:
            self._restore_optimiser(checkpoint)
        self.counts = Counts(**checkpoint.meta.get("counts", {}))
        saved = checkpoint.meta["rng"]
        version, internal, gauss = saved["python"]
        self.rewind(
            Generators(
                python=(version, tuple(internal), gauss),
                numpy=saved["numpy"],
                torch=checkpoint.tensors["rng/torch"],
                cuda=checkpoint.tensors.get("rng/cuda"),
                buffers=[],
            )
        )

    def generators(self) -> Generators:
        """A copy of everything that a step changes before it changes a weight."""
        return Generators(
            python=random.getstate(),
            numpy=self.rng.bit_generator.state,  # pyright: ignore[reportArgumentType]
            torch=torch.get_rng_state(),
            cuda=torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
            buffers=[buffer.clone() for buffer in self._buffers()],
        )

    @torch.no_grad()
    def rewind(self, generators: Generators) -> None:
        """Undo what a step did before it changed a weight."""
        random.setstate(generators.python)
        self.rng.bit_generator.state = generators.numpy
        torch.set_rng_state(generators.torch)
        if torch.cuda.is_available() and generators.cuda is not None:
            torch.cuda.set_rng_state(generators.cuda)
        for buffer, value in zip(self._buffers(), generators.buffers, strict=False):
            buffer.copy_(value)

    def refuse_other_run(self, checkpoint: Checkpoint) -> None:
        """Compare what a checkpoint was trained with.

        Raises:
            UsageError: If it is another run's, or of an older version: its weights load, but the
                rest of it would not be what it was.
        """
        if checkpoint.schema != SCHEMA:
            raise UsageError(
                str(checkpoint.path),
                wanted=f"a checkpoint of schema {SCHEMA} to go on from",
                got=f"schema {checkpoint.schema}, of a version that drew its crops otherwise",
                fix="use its student as it is, or train into another --out",
            )
        saved, now = _flat(checkpoint.meta.get("identity", {})), _flat(self.identity)
        changed = [
            f"{key}: {saved.get(key)!r} then, {now.get(key)!r} now"
            for key in sorted(saved.keys() | now.keys())
            if saved.get(key) != now.get(key)
        ]
        if changed:
            raise UsageError(
                str(checkpoint.path),
                wanted="the run that this checkpoint is from",
                got="; ".join(changed[:5]),
                fix="resume with the old settings, or train into another --out",
            )

    def _read(self, found: list[Path], resume: bool | Literal["auto"]) -> Checkpoint:
        for path in reversed(found):
            try:
                return load_checkpoint(path)
            except CheckpointError as error:
                if resume != "auto" or path == found[0]:
                    raise
                self.log({"event": "damaged_checkpoint", "path": str(path), "error": str(error)})
        raise AssertionError("found is not empty, and its first either returns or raises")

    def _restore_optimiser(self, checkpoint: Checkpoint) -> None:
        assert self.optimiser is not None, "set when the stage began"
        untouched = set(checkpoint.meta.get("untouched", []))
        for name, parameter in self._parameters():
            state: dict[str, Tensor] = {}
            for key in () if name in untouched else _MOMENTS:
                value = checkpoint.tensors.get(f"optimiser/{name}/{key}")
                if value is None or (key != "step" and value.shape != parameter.shape):
                    raise CheckpointError(
                        f"{checkpoint.path}: tensor optimiser/{name}/{key}",
                        wanted=f"the optimiser's state of shape {list(parameter.shape)}",
                        got="no such tensor" if value is None else str(list(value.shape)),
                        fix="use an earlier checkpoint, or train again",
                    )
                state[key] = value if key == "step" else value.to(parameter.device)
            if state:
                self.optimiser.state[parameter] = state

    def _parameters(self) -> list[tuple[str, nn.Parameter]]:
        return [
            (f"{prefix}/{name}", parameter)
            for prefix, module in self.modules.items()
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        ]

    def _buffers(self) -> list[Tensor]:
        return [buffer for module in self.modules.values() for buffer in module.buffers()]


def plain(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The same as it is read back from JSON: with lists for tuples."""
    return json.loads(json.dumps(identity, default=str))


# Settings that change nothing about the weights that come out.
RESUME_MAY_CHANGE = (
    "log_every", "checkpoint_every", "keep_checkpoints", "device", "threads",
    "on_non_finite", "max_skips", "on_save_error",
)  # fmt: skip


def _listed(state: tuple[Any, ...]) -> list[Any]:
    return [list(part) if isinstance(part, tuple) else part for part in state]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested mappings by dotted name, for a readable difference."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat
