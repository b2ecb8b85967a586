"""How to train: options, stages and schedules."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from xmodal.train.balance import BalanceMode
from xmodal.train.crops import Augment

Amp = Literal["auto", "off", "bf16"]
Schedule = Literal["cosine", "linear", "constant"]
BalanceScenes = Literal["points", "voxels", "equal"]
BalanceRecordings = Literal["none", "class", "group"]
OnNonFinite = Literal["stop", "skip"]
OnSaveError = Literal["stop", "continue"]
_CHOICES = {
    "amp": Amp,
    "schedule": Schedule,
    "balance": BalanceMode,
    "balance_scenes": BalanceScenes,
    "balance_recordings": BalanceRecordings,
    "on_non_finite": OnNonFinite,
    "on_save_error": OnSaveError,
}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of a training: what learns, from which edges, for how long.

    The optimiser and its schedule start anew at each stage; weights carry over.

    Attributes:
        name: For the log.
        steps: Number of steps.
        train: Students, and distill edges (`truth -> student`) whose projection or head learns;
            what is not named is frozen. Everything learns if empty.
        edges: Distill edges that count (`truth -> student`); all if empty.
        lr: Peak learning rate; that of the options if None.
        inherit: Students that begin the stage with the weights of another one, `heir: student`.
    """

    name: str
    steps: int
    train: tuple[str, ...] = ()
    edges: tuple[str, ...] = ()
    lr: float | None = None
    inherit: Mapping[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        if self.steps < 1 or (self.lr is not None and not 0 < self.lr < math.inf):
            msg = f"a stage needs steps of at least 1 and lr above 0: {self}"
            raise ValueError(msg)


@dataclass(frozen=True, kw_only=True)
class Average:
    """A teacher that is the moving average of a student's network.

    Attributes:
        student: Node of the student that is averaged.
        decay: Part of the average that stays at each step; less during the first steps, as
            `min(decay, (1 + t) / (10 + t))`, so that it soon forgets the random start.
        view: What it sees: `same` crop as the student in another variation, or a `global` one of
            twice the points around the same places, without variation.

    Source:
        Tarvainen and Valpola, Mean Teachers Are Better Role Models, NeurIPS 2017; global views as
        in Caron et al., Emerging Properties in Self-Supervised Vision Transformers, ICCV 2021.
    """

    student: str
    decay: float = 0.996
    view: Literal["global", "same"] = "global"

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            msg = f"decay must be in [0, 1), not {self.decay}"
            raise ValueError(msg)


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How to train.

    Attributes:
        steps: Number of steps, where there are no stages.
        stages: Parts of the training, one after the other; one of all students and edges if empty.
        crop_points: Points of all crops of a step together; bounds its memory and time.
        crops: Places of the scene that a step sees. More of them make a step's gradient speak for
            the whole room, fewer show each point more of its surroundings. Where one crop covers
            the whole scene there is one.
        loss_rows: Points of the crops that are compared with the teacher.
        loss_sets: Sets of points of each teacher that a step draws to compare; all if None.
        min_set_points: Sets of points with fewer than this among the compared ones are left out.
        batch: Recordings that a step sees, where a run is over those.
        balance_recordings: How often a recording is seen: all alike (`none`), or so that each
            `class` or each `group` is seen as often as the others.
        drop_teachers: Chance that a teacher of a recording is hidden from a student in a step; one
            always stays.
        accumulate: Pieces that a step sees one after the other, each of `crop_points` points of its
            own scene; the gradient is their mean.
        balance_scenes: How often a scene is seen: in proportion to its observed `points`, to its
            `voxels` (occupied cells of 5 cm), or all `equal`.
        balance: How the losses of several edges are weighed, see `xmodal.train.balance`.
        lr: Peak learning rate of AdamW, after a linear warm-up.
        schedule: How it falls afterwards: half a `cosine` or a `linear` ramp down to 0, or not.
        warmup_steps: Steps of the warm-up of each stage.
        weight_decay: Of matrices and kernels; vectors (biases, norms) have none.
        grad_clip: Largest norm of all gradients together.
        amp: Networks in bfloat16 (weights, losses and gradients of weights stay in float32):
            `auto` on CUDA devices that know it, `bf16` also on the CPU.
        ema_decay: Keep a moving average of every student's weights, for inference; none if None.
        seed: Of everything random.
        augment: What is varied from crop to crop.
        on_non_finite: What a loss or gradient that is not finite does: `stop`, or `skip` the step.
        max_skips: Steps of a run that may be skipped before it stops.
        on_save_error: What a checkpoint that cannot be written does: `stop`, or `continue` to the
            next one, which the log says. The last one must be written.
        log_every: Steps between records in the log.
        checkpoint_every: Steps between checkpoints; there is always one at the end.
        keep_checkpoints: How many of the newest checkpoints stay.
        device: Where to train.
        threads: Threads of a torch operation on the CPU, 0 for torch's own setting. Training is
            thousands of short operations that end in a barrier. Two threads took 0.18 s a step
            instead of 0.28 s on two idle cores, but 8 s to 20 s beside another program that kept
            them busy; one thread took 0.41 s there. One also gives the same bits on every number of
            cores.
    """

    steps: int = 800
    stages: tuple[Stage, ...] = ()
    crop_points: int = 16384
    crops: int = 4
    loss_rows: int = 4096
    loss_sets: int | None = None
    min_set_points: int = 3
    batch: int = 64
    balance_recordings: BalanceRecordings = "none"
    drop_teachers: float = 0.0
    accumulate: int = 1
    balance_scenes: BalanceScenes = "voxels"
    balance: BalanceMode = "none"
    lr: float = 1e-2
    schedule: Schedule = "cosine"
    warmup_steps: int = 30
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    amp: Amp = "auto"
    ema_decay: float | None = None
    seed: int = 0
    augment: Augment = field(default_factory=Augment)
    on_non_finite: OnNonFinite = "stop"
    max_skips: int = 10
    on_save_error: OnSaveError = "stop"
    log_every: int = 10
    checkpoint_every: int = 200
    keep_checkpoints: int = 2
    device: str = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        counts = ("steps", "crop_points", "crops", "loss_rows", "log_every", "checkpoint_every")
        for name in (*counts, "keep_checkpoints", "accumulate", "min_set_points", "batch"):
            if getattr(self, name) < 1:
                msg = f"{name} must be at least 1, not {getattr(self, name)}"
                raise ValueError(msg)
        if self.loss_sets is not None and self.loss_sets < 1:
            msg = f"loss_sets must be at least 1, or None for all, not {self.loss_sets}"
            raise ValueError(msg)
        limits = (self.weight_decay, self.warmup_steps, self.threads, self.max_skips)
        if not 0 < self.lr < math.inf or not self.grad_clip > 0 or not min(limits) >= 0:
            msg = (
                "lr and grad_clip must be above 0, weight_decay, warmup_steps, threads and "
                "max_skips 0 or more"
            )
            raise ValueError(msg)
        for name in ("ema_decay", "drop_teachers"):
            if not 0 <= (getattr(self, name) or 0.0) < 1:
                msg = f"{name} must be in [0, 1), not {getattr(self, name)}"
                raise ValueError(msg)
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in get_args(choices):
                msg = f"{name} is one of {get_args(choices)}, not {getattr(self, name)!r}"
                raise ValueError(msg)
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            msg = f"stages need names of their own, not {names}"
            raise ValueError(msg)

    @property
    def all_stages(self) -> tuple[Stage, ...]:
        """The stages; one of everything where none are given."""
        return self.stages or (Stage(name="train", steps=self.steps),)

    @property
    def total_steps(self) -> int:
        """Steps of all stages together."""
        return sum(stage.steps for stage in self.all_stages)

    def stage_at(self, step: int) -> tuple[int, int]:
        """Index of the stage that step `step` (counted from 0) is in, and that stage's first step.

        A step after the end belongs to the last stage.
        """
        first, stages = 0, self.all_stages
        for index, stage in enumerate(stages[:-1]):
            if step < first + stage.steps:
                return index, first
            first += stage.steps
        return len(stages) - 1, first

    def learning_rate(self, step: int) -> float:
        """Learning rate of step `step`, counted from 0."""
        index, first = self.stage_at(step)
        stage, step = self.all_stages[index], step - first
        peak = stage.lr or self.lr
        warmup = min(self.warmup_steps, stage.steps)
        if step < warmup:
            return peak * (step + 1) / warmup
        done = min(1.0, (step - warmup) / max(1, stage.steps - warmup))
        if self.schedule == "constant":
            return peak
        if self.schedule == "linear":
            return peak * (1.0 - done)
        return peak * 0.5 * (1.0 + math.cos(math.pi * done))
