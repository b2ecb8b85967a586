"""What `xmodal eval` is asked for, and checks of the options against each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from xmodal.errors import UsageError

Task = Literal[
    "segmentation", "localisation", "retrieval", "clusters", "views", "features",
    "classification", "probe", "zero_shot", "robustness", "maps",
]  # fmt: skip
_OF_RECORDINGS = ("classification", "probe", "zero_shot", "robustness", "maps")
Protocol = Literal["3d", "2d", "both"]
Chosen = Literal["train", "val", "test", "all"]


@dataclass(frozen=True, kw_only=True)
class EvalRequest:
    """What to measure; the fields are the options of the command line.

    Attributes:
        run: A RUN folder, or with another system's arrays a scene.
        out: Folder of the tables.
        data: A labelled scene, or a folder of them, to measure on; the run's own scenes if None.
        task: What to measure; whatever there are labels for if None.
        scores: Another system's scores [N, classes].
        labels: Another system's class ids [N].
        features: Another system's features [N, C], to be compared with `text_vectors` [classes, C].
        text_vectors: Vectors of the classes, in the space of `features`.
        names: Classes to tell apart, and what the columns of the arrays stand for.
        base: Names that were seen in training; the others are novel.
        split: Scenes of a run over several; held-out ones if None, where there are any.
        protocol: Where answers are compared with the truth: on points, in pictures, or both.
        every: Of the task `features`, judge every so-manyth frame by name; those left out of the
            lift, or all where there are none, if None.
        missing: Of recordings, kinds of streams that are taken away.
        noise: Of recordings, KIND=SHARE: noise in units of the stream's spread.
        swapped: Of recordings, kinds of streams that come from another one.
        source: Of recordings, the nodes and heads to measure; all if empty.
    """

    run: Path
    out: Path
    data: Path | None = None
    task: Task | None = None
    scores: Path | None = None
    labels: Path | None = None
    features: Path | None = None
    text_vectors: Path | None = None
    names: tuple[str, ...] = ()
    base: tuple[str, ...] = ()
    split: Chosen | None = None
    protocol: Protocol = "3d"
    every: int | None = None
    missing: tuple[str, ...] = ()
    noise: tuple[str, ...] = ()
    swapped: tuple[str, ...] = ()
    source: tuple[str, ...] = ()

    @property
    def given(self) -> Path | None:
        """The array of another system, if one is to be scored."""
        return self.scores or self.labels or self.features

    def check(self) -> None:
        """Refuse options that contradict each other or would have no effect.

        Raises:
            UsageError: In these cases.
        """
        self._check_scenes()
        arrays = [n for n in ("scores", "labels", "features") if getattr(self, n) is not None]
        if len(arrays) > 1:
            got = " and ".join(f"--{name}" for name in arrays)
            raise UsageError(
                got, wanted="one of --scores, --labels, --features", got=got, fix="give one of them"
            )
        if (self.features is None) != (self.text_vectors is None):
            raise UsageError(
                "--features / --text-vectors",
                wanted="both, as features mean something only beside vectors of the classes",
                got="--features alone" if self.features else "--text-vectors alone",
                fix="add the other one",
            )
        if arrays and self.task not in (None, "segmentation"):
            raise UsageError(
                f"--{arrays[0]}",
                wanted="--task segmentation",
                got=f"--task {self.task}",
                fix="another system's points are scored against point labels",
            )
        if self.split is not None and self.data is not None:
            raise UsageError(
                f"--split {self.split}",
                wanted="the scenes of the run",
                got=f"--data {self.data}",
                fix="leave one of the two out; splits name scenes of the run",
            )
        _check_list("--names", self.names)
        _check_list("--base", self.base)
        self._check_every()

    def _check_scenes(self) -> None:
        given = {"--missing": self.missing, "--noise": self.noise, "--swapped": self.swapped}
        given["--source"] = self.source
        given["--task"] = (self.task or "",) if self.task in _OF_RECORDINGS else ()
        wrong = next((option for option, value in given.items() if value), None)
        if wrong is not None:
            raise UsageError(
                f"{wrong} {' '.join(given[wrong])}",
                wanted="a run over recordings",
                got=f"{self.run}, which is of scenes",
                fix="leave it out",
            )

    def _check_every(self) -> None:
        if self.every is not None and (self.task != "features" or self.every < 2):
            alone = self.task != "features"
            raise UsageError(
                f"--every {self.every}",
                wanted="--task features" if alone else "2 or more: one of so many frames is judged",
                got=f"--task {self.task}" if alone else str(self.every),
                fix="leave it out" if alone else "--every 8",
            )


def _check_list(option: str, names: tuple[str, ...]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or any(not name.strip() for name in names):
        raise UsageError(
            option,
            wanted="different names, separated by commas",
            got=f"{twice[0]!r} twice" if twice else "an empty name",
            fix=f"{option} 'coffee mug,banana'",
        )


def split_names(text: str | None) -> tuple[str, ...]:
    """Names separated by commas."""
    return () if text is None else tuple(name.strip() for name in text.split(","))
