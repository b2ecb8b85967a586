"""What is judged of a run over recordings: rows of every source, classes and groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xmodal.config.runfile import RunFile, load_run
from xmodal.errors import DataError
from xmodal.recordings.disturbing import Disturbance, disturbed
from xmodal.recordings.inputs import Clips
from xmodal.recordings.ragged import take_samples
from xmodal.recordings.recording import Recordings
from xmodal.runs.frozen import Reporter, load_teachers
from xmodal.runs.recorded.frozen import clip_students, kept_nodes, prepare
from xmodal.runs.recorded.learners import TRUNK, answered, load_clip_learners, student_rows
from xmodal.runs.recorded.material import Listed, as_test, open_data, read_table
from xmodal.store import FeatureInfo, Run
from xmodal.store.recordings import read_samples
from xmodal.train.checkpoint import checkpoints
from xmodal.values import Embedding, Grids

Rows = Embedding | Grids
# Names that a message shows.
_SHOWN = 6


@dataclass(frozen=True, eq=False)
class OpenedRecorded:
    """A finished run over recordings."""

    run: Run
    spec: RunFile

    @cached_property
    def table(self) -> list[Listed]:
        """Its recordings, in the row order of every store."""
        return read_table(self.run)

    @property
    def sources(self) -> list[str]:
        """Nodes and heads that it keeps rows of."""
        return self.run.sources()

    def info(self, source: str) -> FeatureInfo:
        """What is known of a source's rows."""
        return self.run.info(source)

    def rows(self, source: str) -> Rows:
        """Rows of all recordings of the run."""
        return read_samples(self.run, source)

    def places(self, split: str | None) -> list[int]:
        """Recordings of a split; those held out (test, else val, else all) if None."""
        of = [line.split for line in self.table]
        if split == "all":
            return list(range(len(of)))
        wanted = split or next((s for s in ("test", "val") if s in of), "train")
        return [i for i, one in enumerate(of) if one == wanted]

    def is_trunk(self, source: str) -> bool:
        """Whether a source is what a student has before its head, not a head of that name."""
        student, _, part = source.partition(".")
        edges = (e for e in self.spec.graph.losses() if e.target == student)
        return part == TRUNK and not any(TRUNK in edge.sources for edge in edges)

    def from_labels(self, source: str) -> bool:
        """Whether a source's rows were made from labels, not from what was recorded."""
        graph = self.spec.graph
        if source not in graph.nodes or source in graph.students():
            return False
        above = graph.upstream(source)
        sensors = [node.kind for n, node in graph.sensors().items() if n in above]
        return bool(sensors) and all(kind in ("labels", "text") for kind in sensors)

    def teacher_of(self, source: str) -> tuple[str, Any] | None:
        """The frozen teacher in whose space a source's rows are, by its node; None for none."""
        graph = self.spec.graph
        node = source.rpartition(".")[2] if "." in source else self._like(source)
        if node is None or node not in graph.nodes:
            return None
        above = graph.upstream(node)
        found = [n for n in graph.teachers() if n in above]
        if node in graph.students() or len(found) != 1:
            return None
        op: Any = graph.teachers()[found[0]].op
        return found[0], op

    def _like(self, source: str) -> str | None:
        graph = self.spec.graph
        if source not in graph.students():
            return source
        name = self.info(source).teacher
        edges = [edge for edge in graph.losses() if edge.target == source]
        teachers = [s for edge in edges for s in edge.sources if self.run.has(s)]
        width = self.info(source).channels
        alike = (t for t in teachers if self.info(t).channels == width)
        return next((t for t in alike if self.info(t).teacher == name), None)


@dataclass(frozen=True, eq=False)
class Judged:
    """Recordings that are judged.

    Attributes:
        what: Which these are, in words.
        names: Of the recordings.
        groups: Of each.
        labels: Class of each, empty where it is not known.
        rows: Rows by source.
        asked: The sources to measure; all if empty.
        told_apart: Classes that zero-shot answers are chosen from; those of the run and of these
            recordings if empty.
    """

    what: str
    names: tuple[str, ...]
    groups: tuple[str, ...]
    labels: tuple[str, ...]
    rows: Mapping[str, Rows]
    asked: tuple[str, ...] = ()
    told_apart: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def truth(
        self, classes: Sequence[str]
    ) -> tuple[np.ndarray[Any, np.dtype[np.int64]], list[int]]:
        """Class numbers of the recordings that have one of some classes, and which those are.

        Raises:
            DataError: If there is none.
        """
        known = [i for i, label in enumerate(self.labels) if label in classes]
        if not known:
            raise DataError(
                self.what,
                wanted=f"recordings labelled with one of {', '.join(classes[:8])}",
                got="none: they have no labels, or others" if len(self) else "no recordings",
                fix="give labelled recordings with --data, or hold some out under splits",
            )
        return np.array([classes.index(self.labels[i]) for i in known], dtype=np.int64), known

    def left_out(self, classes: Sequence[str]) -> str:
        """In words, recordings that are not judged: without a label, or with one unknown to all.

        Args:
            classes: Those that answers are chosen from.
        """
        other = Counter(label for label in self.labels if label and label not in classes)
        parts = [f"{count} of {name}" for name, count in sorted(other.items())[:_SHOWN]]
        parts += ["..."] if len(other) > _SHOWN else []
        parts += [f"{count} without a label"] if (count := self.labels.count("")) else []
        return f"not judged: {', '.join(parts)}" if parts else ""

    @property
    def embeddings(self) -> dict[str, Embedding]:
        """Sources to measure that have one row for each recording."""
        return {
            name: value
            for name, value in self.rows.items()
            if isinstance(value, Embedding) and value.offsets.tolist() == [*range(len(self) + 1)]
            if not self.asked or name in self.asked
        }


def open_recorded(path: Path) -> OpenedRecorded:
    """Open a finished run over recordings.

    Raises:
        DataError: If it is none.
    """
    run = Run(path)
    run.manifest()
    return OpenedRecorded(run, load_run(run.runfile))


def own_recordings(opened: OpenedRecorded, split: str | None) -> Judged:
    """Recordings of the run itself, with the rows that it keeps."""
    places = opened.places(split)
    lines = [opened.table[i] for i in places]
    if not lines:
        raise DataError(
            str(opened.run.path),
            wanted=f"recordings of the split {split}",
            got="none",
            fix="choose another --split",
        )
    return Judged(
        what=f"{len(lines)} recordings of {opened.run.path.name} ({split or lines[0].split})",
        names=tuple(line.name for line in lines),
        groups=tuple(line.group for line in lines),
        labels=tuple(line.label for line in lines),
        rows={s: take_samples(opened.rows(s), places) for s in opened.sources},
    )


def recordings_of(
    opened: OpenedRecorded, folder: Path | None, split: str | None
) -> tuple[Recordings, str]:
    """Recordings that the trained students are to look at anew, and what they are called.

    Args:
        opened: The run.
        folder: Other recordings in the run's format; the run's own where None.
        split: Of the run's own recordings.
    """
    if folder is None:
        recordings = open_data(opened.spec.data)
        there = {name: place for place, name in enumerate(recordings.names)}
        wanted = [opened.table[i].name for i in opened.places(split)]
        if missing := [name for name in wanted if name not in there]:
            raise DataError(
                str(opened.spec.data.scene),
                wanted=f"the recordings of {opened.run.path}",
                got=f"{len(missing)} missing: {', '.join(missing[:_SHOWN])}",
                fix="restore them, or give others with --data",
            )
        return recordings.take([there[name] for name in wanted]), opened.run.path.name
    return open_data(as_test(opened.spec, folder).data), folder.name


def judged_of(
    opened: OpenedRecorded,
    recordings: Recordings,
    name: str,
    report: Reporter,
    disturbance: Disturbance | None = None,
    only: Sequence[str] = (),
) -> Judged:
    """Recordings as teachers and trained students see them now.

    Args:
        opened: The run.
        recordings: The recordings.
        name: What they are called.
        report: Shows what is done.
        disturbance: What is done to their streams.
        only: Sources that are wanted, so that teachers of others need not be asked; all if empty.
    """
    what = f"{len(recordings)} recordings of {name}"
    if disturbance:
        recordings = disturbed(recordings, disturbance)
        what += f" ({disturbance})"
    return Judged(
        what=what,
        names=recordings.names,
        groups=tuple(item.group for item in recordings.items),
        labels=tuple(item.label or "" for item in recordings.items),
        rows=rows_of(opened, recordings, report, only)[0],
    )


def other_recordings(
    opened: OpenedRecorded,
    folder: Path | None,
    split: str | None,
    disturbance: Disturbance,
    report: Reporter,
    only: Sequence[str] = (),
) -> Judged:
    """Recordings of a folder, or the run's own, seen anew; see `recordings_of` and `judged_of`."""
    recordings, name = recordings_of(opened, folder, split)
    return judged_of(opened, recordings, name, report, disturbance, only)


def rows_of(
    opened: OpenedRecorded, recordings: Recordings, report: Reporter, only: Sequence[str] = ()
) -> tuple[dict[str, Rows], list[float]]:
    """What teachers, students and heads of a run say of recordings, and how long those are.

    Args:
        opened: The run.
        recordings: The recordings.
        report: Shows what is done.
        only: Sources that are wanted; all if empty.
    """
    graph = opened.spec.graph
    teachers = load_teachers(graph)
    if only:
        above = {n for source in only for n in graph.upstream(source.partition(".")[0])}
        teachers = {name: teacher for name, teacher in teachers.items() if name in above}
    prepared = prepare(graph, recordings, teachers, report, given={}, labelled=[], partly=True)
    rows: dict[str, Rows] = dict(prepared.rows)
    if not checkpoints(opened.run.checkpoints):
        return rows, prepared.durations_s
    learners = load_clip_learners(opened.run, opened.spec)
    num = len(recordings)
    clips = {n: Clips.nothing(num, learners.students[n].net.in_shape) for n in clip_students(graph)}
    hollow = {name: _nothing(graph.nodes[name].channels or 0, num) for name in kept_nodes(graph)}
    made = student_rows(learners, clips | prepared.clips, hollow | rows)
    seen = {name: value for name, value in made.items() if bool(value.valid.any())}
    rows |= {a.name: a.value for a in answered(opened.spec, learners, seen)}
    return rows, prepared.durations_s


def _nothing(channels: int, num: int) -> Embedding:
    """Rows of recordings that lack what they would be made from."""
    return Embedding(
        rows=torch.zeros(num, channels),
        valid=torch.zeros(num, dtype=torch.bool),
        weight=torch.zeros(num),
        offsets=torch.arange(num + 1),
    )
