"""`xmodal export` of a run over recordings: a student as an ONNX file."""

from __future__ import annotations

from pathlib import Path

from xmodal.errors import UsageError
from xmodal.runs.recorded.frozen import clip_students
from xmodal.runs.recorded.judged import open_recorded
from xmodal.runs.recorded.learners import load_clip_learners


def export_student(path: Path, out: Path, source: str | None) -> str:
    """Write one student that looks at a stream as ONNX, compared with torch.

    Args:
        path: The trained run.
        out: The file, ending in .onnx.
        source: The student; the only one if None.

    Raises:
        UsageError: If the file ends otherwise, or there is no such student.
        BackendError: If ONNX cannot be written or run here.
    """
    from xmodal.runs.onnx_export import export_clip_student

    opened = open_recorded(path)
    names = list(clip_students(opened.spec.graph))
    if out.suffix.lower() != ".onnx":
        raise UsageError(
            f"--out {out}",
            wanted="a file ending in .onnx, as the run is over recordings",
            got=out.suffix or "no ending",
            fix=f"--out {out.with_suffix('.onnx')}",
        )
    if source not in names and (source is not None or len(names) != 1):
        raise UsageError(
            f"--source {source}" if source else f"export {path}",
            wanted=f"one of the students {', '.join(names)}",
            got=source or "none",
            fix=f"--source {names[0]}" if names else "train a student that looks at a stream",
        )
    name = source or names[0]
    student = load_clip_learners(opened.run, opened.spec).students[name]
    made = export_clip_student(student.net, student.op, out)
    shape = " x ".join(map(str, made.in_shape))
    return (
        f"wrote {out}: `{name}` takes {made.takes} of windows ({shape}); largest difference to "
        f"torch {made.largest_error:.1e}"
    )
