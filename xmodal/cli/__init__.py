"""The command line. Each verb lives in its own module and imports torch only when it runs."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

import typer

from xmodal.cli import (
    align,
    demo,
    doctor,
    edit,
    evaluate,
    figure,
    inspect,
    lift,
    query,
    rooms,
    train,
    world,
)
from xmodal.errors import XmodalError

app = typer.Typer(
    name="xmodal",
    help="Teach any sensor what vision foundation models see: lift 2D features into 3D, "
    "distill them into a network, query them with any text.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in (
    demo.demo,
    world.world,
    rooms.rooms,
    align.align,
    inspect.check,
    lift.lift,
    train.train,
    train.apply,
    query.query,
    edit.edit,
    figure.figure,
    evaluate.eval_,
    inspect.verify,
    inspect.export,
    doctor.doctor,
):
    app.command(name=verb.__name__.rstrip("_"))(verb)


class _TerminatedError(BaseException):
    """SIGTERM, raised in the main thread so that open files are cleaned up on the way out."""


def main() -> None:
    """Entry point of `xmodal`: run a verb, turn typed errors into a message and an exit code."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app()
    except XmodalError as error:
        if debug:
            raise
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        if debug:
            raise
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except _TerminatedError:
        print("terminated", file=sys.stderr)
        sys.exit(143)
    except BrokenPipeError:
        # The reader (`| head`) went away; nothing is wrong, and nothing more can be printed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise _TerminatedError
