"""A RUN folder with everything that is needed to ask it something."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from xmodal.config.runfile import RunFile, load_run
from xmodal.errors import UsageError
from xmodal.ply import read_points
from xmodal.query import Scores, ensemble, text_relevancy
from xmodal.render import PointRenderer
from xmodal.runs.recorded.material import is_recorded
from xmodal.runs.settings import open_run_scene, teacher_edge, text_teacher
from xmodal.splats.drawing import SplatRenderer
from xmodal.splats.files import read_splats
from xmodal.store import Features, Run
from xmodal.teachers.cache import TeacherCache
from xmodal.teachers.weights import user_cache
from xmodal.values import FeatureMap, Image, Masks, Points

if TYPE_CHECKING:
    from lifting.gaussians.splats import Splats
    from xmodal.datasets import Scene
    from xmodal.teachers import Teacher


@dataclass(frozen=True)
class OpenedRun:
    """A finished run; parts are loaded when they are asked for."""

    run: Run
    spec: RunFile

    @cached_property
    def cloud(self) -> Points:
        """The points whose row order every store follows."""
        return read_points(self.run.points).points

    @cached_property
    def splats(self) -> Splats | None:
        """The splats of a run over splats, in the order of the points; None of points alone."""
        return read_splats(self.run.gaussians) if self.run.gaussians.is_file() else None

    def drawn(self, source: str) -> Splats | None:
        """The splats that a source's student shaped; None where it has none of its own.

        Args:
            source: A student, or one of its heads (`STUDENT.TEACHER`).
        """
        student, _, node = source.rpartition(".")
        name = student or node
        return read_splats(self.run.drawn(name)) if name in self.shaped() else None

    def shaped(self) -> list[str]:
        """Students of the run that shaped splats of their own."""
        return [name for name in self.spec.graph.students() if self.run.drawn(name).is_file()]

    def renderer(
        self, *, stride: int = 2, source: str | None = None
    ) -> PointRenderer | SplatRenderer:
        """Draws values of the run's points, or splats, into frames.

        Args:
            stride: One value for every `stride` x `stride` block of colour pixels.
            source: Draw with the splats that this source's student shaped, where it did.
        """
        splats = None if source is None else self.drawn(source)
        splats = self.splats if splats is None else splats
        if splats is not None:
            return SplatRenderer(splats, stride)
        return PointRenderer.of(self.xyz, stride=stride)

    @property
    def xyz(self) -> npt.NDArray[np.float32]:
        """Coordinates `[N, 3]`, world frame, metres."""
        return self.cloud.xyz.numpy()

    @cached_property
    def teacher(self) -> Teacher:
        """The frozen teacher that saw the frames."""
        op: Any = teacher_edge(self.spec.graph).op
        return op.teacher()

    def teacher_of(self, source: str) -> Teacher:
        """Whoever understands questions about a source's rows."""
        if source not in self._asked:
            edge = teacher_edge(self.spec.graph, source)
            same = edge == teacher_edge(self.spec.graph)
            self._asked[source] = self.teacher if same else text_teacher(edge)
        return self._asked[source]

    @cached_property
    def _asked(self) -> dict[str, Teacher]:
        return {}

    @cached_property
    def cache(self) -> TeacherCache:
        """What the teacher said of the frames when they were lifted."""
        return TeacherCache(user_cache() / "teachers")

    def teacher_view(self, image: Image) -> FeatureMap | Masks:
        """The teacher's output for one frame, from the cache where it is."""
        return self.cache.fetch(self.teacher, image)

    @cached_property
    def scene(self) -> Scene:
        """The scene that was lifted."""
        return open_run_scene(self.spec)

    def features(self, source: str) -> Features:
        """Features of one source."""
        return self.run.features(source)

    def pick(self, source: str | None) -> list[str]:
        """Sources to ask: the given one, both for `ensemble`, else the student when there is one.

        Raises:
            UsageError: If the run does not have it.
        """
        have = [n for n in self.run.sources() if self.run.info(n).kind == "points"]
        if source == "ensemble":
            wanted = ["lifted", "student"]
        else:
            wanted = [source or ("student" if "student" in have else "lifted")]
        missing = [name for name in wanted if name not in have]
        if missing:
            raise UsageError(
                f"--source {source}" if source else str(self.run.path),
                wanted=f"a run with features of: {', '.join(wanted)}",
                got=f"this run has: {', '.join(have) or 'none'}",
                fix=_missing_source(self.run, missing, have),
            )
        return wanted

    def relevancy(
        self, source: str | None, texts: list[str], negatives: list[str] | None = None
    ) -> Scores:
        """Relevancy `[N, T]` of texts, of one source or of the ensemble."""
        return ensemble(
            [
                text_relevancy(self.features(name), self.teacher_of(name), texts, negatives or [])
                for name in self.pick(source)
            ]
        )


def _missing_source(run: Run, missing: list[str], have: list[str]) -> str:
    """What to do about features that a run does not have."""
    if "student" in missing:
        return f"xmodal train {run.runfile} --out {run.path}"
    return f"name one of these with --source: {', '.join(have)}" if have else "lift the scene first"


def open_run(path: Path) -> OpenedRun:
    """Open a finished RUN folder.

    Raises:
        DataError: If it is not one.
        ConfigError: If its run file was damaged.
        UsageError: If it is one over recordings, which have no points.
    """
    run = Run(path)
    run.manifest()
    if is_recorded(run):
        raise UsageError(
            str(path),
            wanted="a run over scenes, with points or splats",
            got="a run over recordings",
            fix="use train, eval, query, apply, export or verify with it",
        )
    return OpenedRun(run, load_run(run.runfile))
