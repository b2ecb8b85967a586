"""Typed errors, each one message of four parts: where, what was wanted, what came, what to do."""

from __future__ import annotations

from collections.abc import Callable


class XmodalError(Exception):
    """Base of all errors that end a command.

    Args:
        where: File, field, offset or sample that is at fault.
        wanted: What was expected there.
        got: What came instead.
        fix: What the user can do about it.
    """

    exit_code = 1

    def __init__(self, where: str, *, wanted: str, got: str, fix: str) -> None:
        self.where, self.wanted, self.got, self.fix = where, wanted, got, fix
        super().__init__(f"{where}\n  wanted: {wanted}\n  got:    {got}\n  fix:    {fix}")

    def __reduce__(self) -> tuple[Callable[..., XmodalError], tuple[object, ...]]:
        # Errors of worker processes travel back as pickles, which know no keyword arguments.
        return _restored, (type(self), self.args, dict(self.__dict__))


def _restored(
    kind: type[XmodalError], args: tuple[object, ...], state: dict[str, object]
) -> XmodalError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class UsageError(XmodalError):
    """The command line asks for something that cannot be done (exit 2)."""

    exit_code = 2


class DataError(XmodalError):
    """A scene, image, cloud or store is missing, damaged or inconsistent (exit 3)."""

    exit_code = 3


class CheckpointError(DataError):
    """A checkpoint or weights file is missing, damaged or does not fit (exit 3)."""


class ConfigError(XmodalError):
    """A graph or run file is wrong (exit 4). One report holds all problems of the file."""

    exit_code = 4


class BackendError(XmodalError):
    """A package, accelerator or system library is missing or does not work (exit 5)."""

    exit_code = 5


class ServeError(XmodalError):
    """A server (viewer) cannot start or must refuse (exit 5)."""

    exit_code = 5
