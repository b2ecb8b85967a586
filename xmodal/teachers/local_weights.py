"""Weights that no package carries: found in folders that the user keeps, checked before use."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from xmodal.atomic import sha256_file
from xmodal.errors import BackendError, CheckpointError
from xmodal.teachers.weights import user_cache


@dataclass(frozen=True, kw_only=True)
class LocalFile:
    """One file that the user downloads.

    Attributes:
        folder: Name of its folder under a folder of weights.
        name: Name of the file.
        sha256: Digest of the file that was tested.
        source: Where it is from, for people.
        licence: Licence of the weights.
    """

    folder: str
    name: str
    sha256: str
    source: str
    licence: str

    def locate(self, given: str | Path | None = None) -> Path:
        """Find the file and verify its digest.

        Args:
            given: The file, or the folder that it is in. By default it is looked for in
                `FOLDER/NAME` under `weight_folders()`.

        Raises:
            BackendError: If it is in none of these places.
            CheckpointError: If the given path has no such file, or it is not the one tested.
        """
        if given is not None:
            path = Path(given).expanduser()
            path = path / self.name if path.is_dir() else path.with_name(self.name)
            if not path.is_file():
                raise CheckpointError(
                    str(path), wanted=self._wanted, got="no such file", fix=self._fix
                )
            return _verified(self, path)
        for folder in weight_folders():
            path = folder / self.folder / self.name
            if path.is_file():
                return _verified(self, path)
        places = ", ".join(str(folder / self.folder) for folder in weight_folders())
        raise BackendError(
            f"weights {self.folder}/{self.name}",
            wanted=self._wanted,
            got=f"no such file in {places}",
            fix=self._fix,
        )

    @property
    def _wanted(self) -> str:
        return f"{self.name} of {self.source}, sha256 {self.sha256}"

    @property
    def _fix(self) -> str:
        return (
            f"download it to {user_cache() / 'weights' / self.folder}, or name its folder with the "
            "field `weights` or, for all teachers, $XMODAL_WEIGHTS"
        )


def weight_folders() -> list[Path]:
    """Where files of weights are looked for, first to last.

    `$XMODAL_WEIGHTS`, then `weights` in the user's cache folder, then `weights` in the folder of
    data that tests use (`$XMODAL_DATA`).
    """
    chosen, data = os.environ.get("XMODAL_WEIGHTS"), os.environ.get("XMODAL_DATA")
    folders = [Path(chosen)] if chosen else []
    folders.append(user_cache() / "weights")
    return [*folders, Path(data) / "weights"] if data else folders


def _verified(file: LocalFile, path: Path) -> Path:
    stat = path.stat()
    found = _digest(path, stat.st_size, stat.st_mtime_ns)
    if found != file.sha256:
        raise CheckpointError(
            str(path),
            wanted=f"{file.name} of {file.source}, sha256 {file.sha256}",
            got=f"sha256 {found}",
            fix="download it again, or remove it from this folder",
        )
    return path


@cache
def _digest(path: Path, size: int, changed_ns: int) -> str:
    """Digest of a file, read again when its size or time has changed."""
    del size, changed_ns
    return sha256_file(path)
