"""`xmodal query` of a run over recordings: which of them a text fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from numpy.typing import NDArray

from xmodal.atomic import write_json
from xmodal.errors import UsageError
from xmodal.evaluate.tables import Table
from xmodal.query import write_scores
from xmodal.runs.prompts import Prompt, QueryOutputs
from xmodal.runs.recorded.judged import OpenedRecorded, open_recorded


def query_recordings(path: Path, prompt: Prompt, source: str | None, outputs: QueryOutputs) -> str:
    """List the recordings that fit a text best; write the files asked for.

    Scores are the relevancy that the teacher gives rows of its space, in [0, 1].

    Raises:
        UsageError: If something else than a text is asked for, or no rows understand one.
    """
    prompt.check()
    given = {
        "--click": prompt.click, "--box": prompt.box, "--image": prompt.image, "--ply": outputs.ply,
        "--png": outputs.png, "--frame": outputs.frame,
    }  # fmt: skip
    wrong = next((option for option, value in given.items() if value is not None), None)
    if wrong is not None or prompt.text is None:
        raise UsageError(
            wrong or "query",
            wanted="a text, as the run is over recordings",
            got=wrong or "no text",
            fix='xmodal query RUN "dog barking"',
        )
    opened = open_recorded(path)
    name, teacher = asked(opened, source)
    scores = relevancy(opened, name, teacher, prompt.text, list(prompt.negatives))
    order = np.argsort(-np.nan_to_num(scores, nan=-1.0), kind="stable")[: outputs.top]
    found: list[dict[str, Any]] = [
        {
            "name": opened.table[i].name,
            "group": opened.table[i].group,
            "label": opened.table[i].label or None,
            "split": opened.table[i].split,
            "score": round(float(scores[i]), 6),
        }
        for i in order.tolist()
        if np.isfinite(scores[i])
    ]
    if outputs.json:
        write_json(outputs.json, {"text": prompt.text, "source": name, "recordings": found})
    if outputs.scores:
        write_scores(outputs.scores, scores)
    rows = tuple((r["name"], r["label"] or "", r["split"], r["score"]) for r in found)
    table = Table(f"{prompt.text!r} by {name}", ("recording", "label", "split", "score"), rows)
    files = (outputs.json, outputs.scores)
    return "\n".join([table.text(), *(f"wrote {file}" for file in files if file)])


def asked(opened: OpenedRecorded, source: str | None) -> tuple[str, Any]:
    """The source to ask, and who understands the question: a student's rows before a teacher's.

    Raises:
        UsageError: If there is none, or not this one.
    """
    able: dict[str, Any] = {}
    for name in opened.sources:
        found = None if opened.from_labels(name) else opened.teacher_of(name)
        if found is not None and hasattr(teacher := found[1].teacher(), "encode_text"):
            able[name] = teacher
    students = [name for name in able if name.partition(".")[0] in opened.spec.graph.students()]
    chosen = source or next(iter([*students, *able]), None)
    if chosen not in able:
        raise UsageError(
            f"--source {source}" if source else str(opened.run.path),
            wanted="rows in the space of a teacher that understands words",
            got=f"the run has {', '.join(opened.sources)}; askable: {', '.join(able) or 'none'}",
            fix="distill from `yamnet`, `label_text` or another teacher with a text side",
        )
    return chosen, able[chosen]


def relevancy(
    opened: OpenedRecorded, source: str, teacher: Any, text: str, negatives: list[str]
) -> Float32[NDArray[np.float32], " N"]:
    """Relevancy of a text to every recording, in [0, 1]; NaN where nothing was observed."""
    value = opened.rows(source)
    scores = teacher.relevancy(value.rows, [text], negatives)[:, 0].float().numpy()
    return np.where(value.valid.numpy(), scores, np.nan).astype(np.float32)
