"""Measures of a run over recordings: classification, probes, zero-shot, retrieval."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch.nn.functional import normalize

from xmodal.atomic import write_bytes, write_json
from xmodal.errors import DataError
from xmodal.evaluate.classification import Classified, classify
from xmodal.evaluate.probe import Probe, fit_probe
from xmodal.evaluate.retrieval import first_hit_rank, recall_at
from xmodal.evaluate.tables import Table
from xmodal.runs.recorded.frozen import clip_students
from xmodal.runs.recorded.judged import Judged, OpenedRecorded
from xmodal.values import Embedding

Reals = NDArray[np.float64]
Tables = dict[str, Table]
_KS = (1, 5, 10)
# Of another way of fitting, probes are fitted again.
_PROBE_SCHEMA = 2
_HEAD = (
    "source", "recordings", "accuracy", "low", "high", "balanced", "low", "high", "mAP",
    "calibration error",
)  # fmt: skip


def classification_tables(opened: OpenedRecorded, judged: Judged) -> Tables:
    """Sources whose columns are classes, against the labels."""
    found: dict[str, tuple[Classified, tuple[str, ...], int]] = {}
    for source, value in judged.embeddings.items():
        classes = opened.info(source).classes if opened.run.has(source) else ()
        if not classes or opened.from_labels(source):
            continue
        truth, known = judged.truth(classes)
        scores = _scores(value.rows[known].double().numpy(), value.valid[known].numpy())
        groups = [judged.groups[i] for i in known]
        found[source] = (classify(scores, truth, groups), classes, len(known))
    if not found:
        raise _nothing(
            opened,
            judged,
            wanted="a student or head that was taught classes",
            fix="add `labels -> truth: {op: one_hot}` and distill from it, or use --task probe",
        )
    return _tables("classification", judged, found)


def probe_tables(opened: OpenedRecorded, judged: Judged) -> Tables:
    """Linear probes on every source's rows, fitted to the training recordings of the run.

    Of a student, its rows and what it has before its head (`STUDENT.trunk`) are both probed.
    """
    found: dict[str, tuple[Classified, tuple[str, ...], int]] = {}
    for source, value in judged.embeddings.items():
        info = opened.info(source)
        if opened.from_labels(source) or info.classes:
            continue
        if "." in source and not (opened.is_trunk(source) or source in judged.asked):
            continue  # a head says nothing that the student's rows do not hold
        probe, classes = probe_of(opened, source)
        truth, known = judged.truth(classes)
        scores = _scores(probe.scores(value.rows[known]), value.valid[known].numpy())
        groups = [judged.groups[i] for i in known]
        found[source] = (classify(scores, truth, groups), classes, len(known))
    if not found:
        raise _nothing(
            opened,
            judged,
            wanted="rows of a student or teacher to probe that are no scores of classes",
            fix="give the student a width of its own and learn labels through `project: linear`",
        )
    return _tables("probe", judged, found)


def zero_shot_tables(opened: OpenedRecorded, judged: Judged) -> Tables:
    """Rows against the text vectors of class names, through the teacher's text side.

    Answers are chosen from the classes of all recordings of the run and of those that are judged,
    so that few classes in a folder do not make it easier.
    """
    known_labels = {*judged.labels, *(line.label for line in opened.table)} - {""}
    classes = judged.told_apart or tuple(sorted(known_labels))
    truth, known = judged.truth(classes)
    found: dict[str, tuple[Classified, tuple[str, ...], int]] = {}
    for source, value in judged.embeddings.items():
        asked = None if opened.from_labels(source) else opened.teacher_of(source)
        if asked is None or not _has_text(asked[1]):
            continue
        teacher = asked[1].teacher()
        scores = teacher.relevancy(value.rows[known], list(classes), []).double().numpy()
        scores = _scores(scores, value.valid[known].numpy())
        groups = [judged.groups[i] for i in known]
        judgement = classify(scores, truth, groups, probabilities=False)
        found[source] = (judgement, classes, len(known))
    if not found:
        raise _nothing(
            opened,
            judged,
            wanted="rows in the space of a teacher that understands words",
            fix="distill from `yamnet`, `label_text` or another teacher with a text side",
        )
    return _tables("zero_shot", judged, found)


def retrieval_tables(opened: OpenedRecorded, judged: Judged) -> Tables:
    """From a student's row to its teacher's row of the same recording, and back."""
    rows: list[tuple[str | float | int, ...]] = []
    values = judged.embeddings
    for query, target in _pairs(opened, values):
        both = (values[query].valid & values[target].valid).nonzero().squeeze(1)
        if len(both) < 2:
            continue
        for first, second in ((query, target), (target, query)):
            if f"{first} -> {second}" in {row[0] for row in rows}:
                continue  # two that teach each other
            ranks = _ranks(values[first].rows[both], values[second].rows[both])
            shares = [recall_at(ranks, k) for k in _KS]
            rows.append((f"{first} -> {second}", len(both), *shares, float(np.median(ranks))))
    if not rows:
        raise _nothing(
            opened,
            judged,
            wanted="a student with rows like those of its teacher, and two recordings of both",
            fix="distill from a teacher of the same width, or through `project: linear`",
        )
    columns = ("from -> to", "recordings", *(f"R@{k}" for k in _KS), "median rank")
    return {"retrieval": Table(f"retrieval: {judged.what}", columns, tuple(rows))}


def probe_of(opened: OpenedRecorded, source: str) -> tuple[Probe, tuple[str, ...]]:
    """The probe of a source, kept in RUN/probes; fitted when it is first asked for.

    Raises:
        DataError: If the training recordings have no labels of two classes.
    """
    folder, fingerprint = opened.run.path / "probes", opened.info(source).fingerprint
    record, file = folder / f"{source}.json", folder / f"{source}.safetensors"
    if record.is_file() and file.is_file():
        known = json.loads(record.read_text())
        if known.get("fingerprint") == fingerprint and known.get("schema") == _PROBE_SCHEMA:
            tensors = load_file(file)
            loss = known["validated_loss"]
            loss = float("nan") if loss is None else float(loss)
            probe = Probe(**tensors, strength=known["strength"], validated_loss=loss)
            return probe, tuple(known["classes"])
    places = [i for i in opened.places("train") if opened.table[i].label]
    value = opened.rows(source)
    places = [i for i in places if bool(value.valid[i])]
    labels = [opened.table[i].label for i in places]
    classes = tuple(sorted(set(labels)))
    if len(classes) < 2:
        raise DataError(
            f"{opened.run.path}, probe of {source}",
            wanted="training recordings of two classes at least, with rows of this source",
            got=f"{len(classes)} classes in {len(places)} recordings",
            fix="label the training recordings; only the probe sees those labels",
        )
    probe = fit_probe(
        value.rows[places],
        np.array([classes.index(label) for label in labels], dtype=np.int64),
        [opened.table[i].group for i in places],
        len(classes),
        seed=opened.spec.seed,
    )
    _keep(folder, source, probe, classes, fingerprint)
    opened.run.finish()
    return probe, classes


def _keep(
    folder: Path, source: str, probe: Probe, classes: Sequence[str], fingerprint: str
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    parts = {n: getattr(probe, n).contiguous() for n in ("mean", "std", "weight", "bias")}
    write_bytes(folder / f"{source}.safetensors", save(parts))
    loss = probe.validated_loss
    record: dict[str, Any] = {
        "schema": _PROBE_SCHEMA,
        "classes": list(classes),
        "strength": probe.strength,
        "validated_loss": None if np.isnan(loss) else loss,
        "fingerprint": fingerprint,
    }
    write_json(folder / f"{source}.json", record)


def _nothing(opened: OpenedRecorded, judged: Judged, *, wanted: str, fix: str) -> DataError:
    graph = opened.spec.graph
    blind = {n: s for n, s in clip_students(graph).items() if n not in judged.rows}
    if blind:
        kinds = sorted({graph.nodes[sensor].kind for sensor in blind.values()})
        fix = f"give recordings with {', '.join(kinds)}, which {', '.join(blind)} looks at"
    return DataError(
        f"{opened.run.path}, {judged.what}",
        wanted=wanted,
        got=f"rows of {', '.join(judged.embeddings) or 'nothing'}",
        fix=fix,
    )


def _scores(scores: Reals, valid: NDArray[np.bool_]) -> Float64[Reals, "N K"]:
    """NaN where there was nothing to see: no answer."""
    return np.where(valid[:, None], scores.astype(np.float64), np.nan)


def _has_text(op: Any) -> bool:
    return hasattr(op.teacher(), "encode_text")


def _pairs(opened: OpenedRecorded, values: Mapping[str, Embedding]) -> list[tuple[str, str]]:
    """Students, or their heads, with the node whose rows theirs are like."""
    found: list[tuple[str, str]] = []
    for edge in opened.spec.graph.losses():
        for teacher in edge.sources:
            head = f"{edge.target}.{teacher}"
            student = head if head in values else edge.target
            pair = (student, teacher)
            if not {*pair} <= values.keys() or opened.from_labels(teacher) or pair in found:
                continue
            if values[student].rows.shape[1] == values[teacher].rows.shape[1]:
                found.append(pair)
    return found


def _ranks(queries: torch.Tensor, targets: torch.Tensor) -> NDArray[np.int64]:
    near = (normalize(queries.double(), dim=1) @ normalize(targets.double(), dim=1).T).numpy()
    return first_hit_rank(near, np.eye(len(near), dtype=np.bool_))


def _tables(
    task: str,
    judged: Judged,
    found: Mapping[str, tuple[Classified, tuple[str, ...], int]],
) -> Tables:
    units = {judgement.unit for judgement, _, _ in found.values()}
    title = f"{task}: {judged.what}; 95 % intervals over {' and '.join(sorted(units))}"
    unjudged = {judged.left_out(names) for _, names, _ in found.values()} - {""}
    silent = {s: int(c.confusion[:, -1].sum()) for s, (c, _, _) in found.items()}
    mute = ", ".join(f"{count} of {source}" for source, count in silent.items() if count)
    title = "; ".join([title, *sorted(unjudged), *([f"without an answer: {mute}"] if mute else [])])
    rows = tuple(
        (s, num, *c.accuracy, *c.balanced, c.mean_ap, c.calibration_error)
        for s, (c, _, num) in found.items()
    )
    tables = {task: Table(title, _HEAD, rows)}
    classes = tuple(
        (s, name, int(c.confusion[k].sum()), float(c.recall[k]), float(c.precision[k]),
         float(c.ap[k]))
        for s, (c, names, _) in found.items()
        for k, name in enumerate(names)
    )  # fmt: skip
    columns = ("source", "class", "recordings", "recall", "precision", "AP")
    tables[f"{task}_classes"] = Table(f"{task}, by class", columns, classes)
    for source, (judgement, names, _) in found.items():
        lines = tuple((n, *row.tolist()) for n, row in zip(names, judgement.confusion, strict=True))
        heads = ("truth", *names, "no answer")
        tables[f"{task}_confusion_{source}"] = Table(f"{task} of {source}", heads, lines)
    return tables
