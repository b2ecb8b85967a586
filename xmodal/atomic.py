"""Files that are either the old one or the new one, never a part of it.

Everything is written to a temporary name in the same folder, flushed to the disk (`fsync`) and then
renamed; a process that dies half-way leaves the previous file untouched and one leftover that
`remove_leftovers` deletes at the next start.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from xmodal.errors import DataError

# The writer's process id is part of the name, so that a leftover is told from a live writer.
_TEMPORARY = re.compile(r"^\..+\.tmp-(?P<pid>\d+)-[0-9a-f]{8}$")
_HASH_BLOCK_BYTES = 1 << 20
# From linux/fs.h and linux/fcntl.h; the errors say that kernel or file system cannot exchange.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.EXDEV)


def temporary_name(path: Path) -> Path:
    """A fresh hidden name beside `path`, on the same file system so that a rename is atomic."""
    return path.with_name(f".{path.name}.tmp-{os.getpid()}-{os.urandom(4).hex()}")


@contextmanager
def atomic_path(path: Path) -> Generator[Path]:
    """Give a temporary path to write a file to; it becomes `path` only if the block succeeds.

    Args:
        path: Final name. Its folder is made when it does not exist; an old file is replaced.

    Yields:
        The temporary path. Whoever writes may open and close it as often as needed.

    Raises:
        DataError: If the file cannot be written (no space, no permission, read-only folder); the
            old file, if any, is intact and nothing is left behind.
    """
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        if not _concerns(error, path):
            raise
        needed = temporary.stat().st_size if temporary.exists() else 0
        raise _not_written(path, needed, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def atomic_folder(path: Path) -> Generator[Path]:
    """Give a temporary folder to fill; it becomes `path` only if the block succeeds.

    Args:
        path: Final name of the folder. An old folder of that name is exchanged for the new one in
            one step where the system can (Linux), so a kill leaves one of the two; elsewhere there
            is neither for a moment, never a mixture.

    Yields:
        The temporary folder, empty.

    Raises:
        DataError: If it cannot be written; the old folder, if any, is intact.
    """
    temporary = temporary_name(path)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for file in sorted(temporary.rglob("*")):
            _sync(file)
        _sync(temporary)
        if path.exists():
            _exchange(temporary, path)
            shutil.rmtree(temporary)
        else:
            temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        if not _concerns(error, path):
            raise
        needed = sum(file.stat().st_size for file in temporary.rglob("*") if file.is_file())
        raise _not_written(path, needed, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def locked(path: Path) -> Generator[None]:
    """Hold a lock among processes; a second writer waits. The system frees it when a holder dies.

    Args:
        path: The lock file; made when it does not exist, and left there.
    """
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically; errors as `atomic_path`."""
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(data)
    except DataError as error:
        if isinstance(error.__cause__, OSError):
            # The part that was written says little; the whole size is what must fit.
            raise _not_written(path, len(data), error.__cause__) from error.__cause__
        raise


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, atomically; errors as `atomic_path`."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, keys in the given order, without NaN; atomically."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def remove_folder(path: Path) -> None:
    """Delete a folder so that its name never stands for a part of it: rename first."""
    shutil.rmtree(path.replace(temporary_name(path)), ignore_errors=True)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def remove_leftovers(folder: Path) -> list[Path]:
    """Delete what writers that no longer live have left in `folder` (not in its sub-folders).

    Returns:
        The paths that were deleted.
    """
    removed: list[Path] = []
    for path in sorted(folder.glob(".*.tmp-*")) if folder.is_dir() else []:
        match = _TEMPORARY.match(path.name)
        if match is None or _alive(int(match["pid"])):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        removed.append(path)
    return removed


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _exchange(new: Path, old: Path) -> None:
    """Let two folders change names in one step, or by renames where the system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is not None:
        names = os.fsencode(new.absolute()), os.fsencode(old.absolute())
        if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
            return
        number = ctypes.get_errno()
        if number not in _NO_EXCHANGE:
            raise OSError(number, os.strerror(number), str(old))
    aside = old.replace(temporary_name(old))
    new.replace(old)
    aside.replace(new)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _concerns(error: OSError, path: Path) -> bool:
    """Whether an error is about writing `path`, not about what the caller's block reads."""
    if error.filename is None:
        return True
    return Path(os.fsdecode(error.filename)).is_relative_to(path.parent)


def _not_written(path: Path, needed: int, error: OSError) -> DataError:
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    return DataError(
        str(path),
        wanted=f"to write {needed} bytes" if needed else "to write this file",
        got=f"{error.strerror or error} ({free} bytes free)",
        fix="free some space, or choose a folder that can be written to",
    )
