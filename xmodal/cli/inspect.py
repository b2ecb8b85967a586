"""`xmodal check`, `xmodal verify` and `xmodal export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def check(
    file: Annotated[Path | None, typer.Argument(help="A graph or run file.")] = None,
    schema: Annotated[
        Path | None, typer.Option(help="Write the JSON schemas for editors to this folder.")
    ] = None,
) -> None:
    """Validate a graph or run file: every mistake at once, before any tensor exists.

    For example:

        xmodal check configs/graphs/kitchen.yaml

        xmodal check --schema docs/schema
    """
    from xmodal.errors import UsageError

    if file is None and schema is None:
        raise UsageError(
            "xmodal check",
            wanted="a graph or run file, or --schema FOLDER",
            got="neither",
            fix="xmodal check configs/graphs/kitchen.yaml",
        )
    if schema is not None:
        from xmodal.config.schema import write_schemas

        for path in write_schemas(schema):
            print(path)
    if file is not None:
        from xmodal.config.runfile import check_file

        print(check_file(file))


def verify(run: Annotated[Path, typer.Argument(help="RUN folder.")]) -> None:
    """Re-check every hash of a run.

    For example:

        xmodal verify RUN

        xmodal verify runs/demo
    """
    from xmodal.errors import DataError
    from xmodal.store import Run

    problems = Run(run).verify()
    if problems:
        raise DataError(
            str(run),
            wanted="every file as its manifest says",
            got="; ".join(problems),
            fix="lift and train again with --overwrite, or restore the files",
        )
    print(f"{run}: {len(Run(run).manifest()['files'])} files, all as written")


def export(
    run: Annotated[Path, typer.Argument(help="RUN folder.")],
    out: Annotated[
        Path, typer.Option(help="File to write: .ply; .splat of splats; .onnx of recordings.")
    ],
    source: Annotated[
        str | None,
        typer.Option(help="Features whose colours are shown, or the student to write."),
    ] = None,
) -> None:
    """Write a run's cloud with its features as colours, or a student of recordings as ONNX.

    For example:

        xmodal export RUN --out features.ply

        xmodal export RUN --source motion --out motion.onnx
    """
    from xmodal.runs.export import export_run

    print(export_run(run, out, source))
