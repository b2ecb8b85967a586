"""Everything that a training run must remember to go on as if it had never stopped."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from xmodal.atomic import remove_leftovers
from xmodal.errors import CheckpointError, UsageError
from xmodal.train.checkpoint import (
    Checkpoint,
    checkpoint_path,
    checkpoints,
    fit_state,
    load_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class TrainingState:
    """Modules, optimiser and random generators of a run, and their checkpoints.

    Args:
        modules: Trained modules by name.
        optimiser: AdamW over their parameters.
        rng: The loop's own generator.
        identity: What must be equal for a checkpoint to be continued (JSON values).
        folder: Where checkpoints are.
        keep: How many of the newest stay.
        log: Called with a record when something is worth saying.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        optimiser: torch.optim.AdamW,
        *,
        rng: np.random.Generator,
        identity: Mapping[str, Any],
        folder: Path,
        keep: int,
        log: Callable[[dict[str, Any]], None],
    ) -> None:
        self.modules, self.optimiser, self.rng = modules, optimiser, rng
        self.identity, self.folder, self.keep, self.log = identity, folder, keep, log

    def save(self, step: int) -> Path:
        """Write the checkpoint after `step` steps, and drop old ones.

        Raises:
            CheckpointError: If it cannot be written; earlier ones are intact.
        """
        tensors: dict[str, Tensor] = {"rng/torch": torch.get_rng_state()}
        if torch.cuda.is_available():
            tensors["rng/cuda"] = torch.cuda.get_rng_state()
        for prefix, module in self.modules.items():
            tensors |= {f"{prefix}/{name}": value for name, value in module.state_dict().items()}
        for name, parameter in self._parameters():
            for key, value in self.optimiser.state[parameter].items():
                tensors[f"optimiser/{name}/{key}"] = value
        meta = {
            "step": step,
            "identity": dict(self.identity),
            "rng": {"python": _listed(random.getstate()), "numpy": self.rng.bit_generator.state},
        }
        path = checkpoint_path(self.folder, step)
        save_checkpoint(path, tensors, meta)
        prune_checkpoints(self.folder, self.keep)
        return path

    def start(self, resume: bool | Literal["auto"]) -> int:
        """Restore the newest checkpoint if asked to; the number of steps already done.

        Raises:
            UsageError: If there are checkpoints and `resume` is off, or of another run.
            CheckpointError: If one cannot be read or does not fit.
        """
        remove_leftovers(self.folder)
        found = checkpoints(self.folder)
        if not found:
            return 0
        if resume is False:
            raise UsageError(
                str(self.folder),
                wanted="a folder without checkpoints, since nothing is to be resumed",
                got=f"checkpoints up to {found[-1].name}",
                fix="pass --resume to go on, or choose another --out",
            )
        checkpoint = self._read(found, resume)
        self._refuse_other_run(checkpoint)
        for prefix, module in self.modules.items():
            fit_state(module, checkpoint, prefix)
        self._restore_optimiser(checkpoint)
        self._restore_generators(checkpoint)
        return int(checkpoint.meta["step"])

    def _read(self, found: list[Path], resume: bool | Literal["auto"]) -> Checkpoint:
        for path in reversed(found):
            try:
                return load_checkpoint(path)
            except CheckpointError as error:
                if resume != "auto" or path == found[0]:
                    raise
                self.log({"event": "damaged_checkpoint", "path": str(path), "error": str(error)})
        raise AssertionError("found is not empty, and its first either returns or raises")

    def _refuse_other_run(self, checkpoint: Checkpoint) -> None:
        saved = _flat(checkpoint.meta.get("identity", {}))
        now = _flat(self.identity)
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

    def _restore_optimiser(self, checkpoint: Checkpoint) -> None:
        for name, parameter in self._parameters():
            state: dict[str, Tensor] = {}
            for key in _MOMENTS:
                value = checkpoint.tensors.get(f"optimiser/{name}/{key}")
                if value is None or (key != "step" and value.shape != parameter.shape):
                    raise CheckpointError(
                        f"{checkpoint.path}: tensor optimiser/{name}/{key}",
                        wanted=f"the optimiser's state of shape {list(parameter.shape)}",
                        got="no such tensor" if value is None else str(list(value.shape)),
                        fix="use an earlier checkpoint, or train again",
                    )
                state[key] = value if key == "step" else value.to(parameter.device)
            self.optimiser.state[parameter] = state

    def _restore_generators(self, checkpoint: Checkpoint) -> None:
        saved = checkpoint.meta["rng"]
        version, internal, gauss = saved["python"]
        random.setstate((version, tuple(internal), gauss))
        self.rng.bit_generator.state = saved["numpy"]
        torch.set_rng_state(checkpoint.tensors["rng/torch"])
        if torch.cuda.is_available() and "rng/cuda" in checkpoint.tensors:
            torch.cuda.set_rng_state(checkpoint.tensors["rng/cuda"])

    def _parameters(self) -> list[tuple[str, nn.Parameter]]:
        return [
            (f"{prefix}/{name}", parameter)
            for prefix, module in self.modules.items()
            for name, parameter in module.named_parameters()
            if parameter in self.optimiser.state or parameter.requires_grad
        ]


def _listed(state: tuple[Any, ...]) -> list[Any]:
    return [list(part) if isinstance(part, tuple) else part for part in state]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested mappings by dotted name, for a readable difference."""
    if not isinstance(value, Mapping):
        return {prefix: list(value) if isinstance(value, tuple) else value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat
