"""`xmodal apply` of a run over recordings: its students on other ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from xmodal.atomic import write_text
from xmodal.config.run_parts import Split
from xmodal.runs.frozen import Reporter
from xmodal.runs.recorded.judged import open_recorded, rows_of
from xmodal.runs.recorded.material import Material, as_test, open_data, write_table
from xmodal.store import create_run, fingerprint_of
from xmodal.store.recordings import write_samples


def apply_recordings(
    path: Path, folder: Path, out: Path, *, overwrite: bool, report: Reporter
) -> str:
    """Let the trained students of a run look at other recordings; keep their rows in a new run.

    Args:
        path: The trained run.
        folder: Recordings in the run's format; streams that only teachers need may lack.
        out: The new RUN folder.
        overwrite: Whether another run there may be replaced.
        report: Shows what is done.
    """
    opened = open_recorded(path)
    spec = as_test(opened.spec, folder.resolve())
    recordings = open_data(spec.data)
    trained = opened.run.manifest()["fingerprint"]
    fingerprint = fingerprint_of(run=trained, recordings=recordings.fingerprint)
    made = create_run(out, fingerprint, overwrite=overwrite)
    write_text(made.runfile, spec.to_yaml())
    write_text(made.path / "graph.yaml", spec.graph.to_yaml())
    rows, durations_s = rows_of(opened, recordings, report)
    test: Split = "test"
    write_table(made, Material(recordings, (test,) * len(recordings)), durations_s)
    for name, value in rows.items():
        if not opened.from_labels(name):
            info = replace(opened.info(name), fingerprint=fingerprint)
            write_samples(made, name, info, value)
    made.finish(fingerprint=fingerprint, student_of=str(path.resolve()), source=str(folder))
    return f"  {len(recordings)} recordings described by the students of {path} -> {out}"
