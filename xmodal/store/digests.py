"""Checksums of a store's files, in pieces, so that damage is named by chunk and by rows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from xmodal.errors import DataError

# Small enough to say which rows are gone, large enough that hashes of a gigabyte are one screen.
CHUNK_BYTES = 4 << 20
_FIX = "the store is damaged; lift again with --overwrite, or restore the file"


def digest_file(path: Path, num_rows: int) -> dict[str, Any]:
    """What `check_file` compares a file with: its size and the SHA-256 of every chunk.

    Args:
        path: A finished .npy file.
        num_rows: Length of its first axis, to name rows; 0 when it has no rows of points.
    """
    size = path.stat().st_size
    return {"bytes": size, "rows": num_rows, "sha256": list(_chunk_hashes(path))}


def check_file(path: Path, record: Mapping[str, Any]) -> None:
    """Compare a file with its record; a file that has not changed since is not read again.

    Raises:
        DataError: Naming the file, the first chunk that differs and the rows in it.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(
            str(path),
            wanted=f"a file of {record['bytes']} bytes",
            got=error.strerror or "none",
            fix=_FIX,
        ) from error
    if stat.st_size != record["bytes"]:
        raise _damaged(path, record, min(stat.st_size, record["bytes"]), f"{stat.st_size} bytes")
    key = (stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size)
    for chunk, (found, wanted) in enumerate(
        zip(_known_hashes(path, key), record["sha256"], strict=True)
    ):
        if found != wanted:
            raise _damaged(path, record, chunk * CHUNK_BYTES, f"SHA-256 {found[:12]}...")


@lru_cache(maxsize=256)
def _known_hashes(path: Path, key: tuple[int, ...]) -> tuple[str, ...]:
    """Hashes of a file as long as its identity, times and size stay the same."""
    del key
    return _chunk_hashes(path)


def _chunk_hashes(path: Path) -> tuple[str, ...]:
    found: list[str] = []
    with path.open("rb") as file:
        while block := file.read(CHUNK_BYTES):
            found.append(hashlib.sha256(block).hexdigest())
    return tuple(found)


def _damaged(path: Path, record: Mapping[str, Any], offset: int, got: str) -> DataError:
    total, size = len(record["sha256"]), record["bytes"]
    chunk = min(offset // CHUNK_BYTES, total - 1)
    begin, end = chunk * CHUNK_BYTES, min((chunk + 1) * CHUNK_BYTES, size)
    where = f"{path}: chunk {chunk} of {total}, bytes {begin} to {end}"
    if rows := record["rows"]:
        # The header is some 128 bytes; a row more on either side does not mislead.
        first, last = begin * rows // size, min(rows, -(-end * rows // size))
        where += f", rows {first} to {last}"
    wanted = f"{size} bytes" if got.endswith("bytes") else "the bytes that were written (SHA-256)"
    return DataError(where, wanted=wanted, got=got, fix=_FIX)
