"""Teacher output on disk, one file a frame: resumable, capped, shared by concurrent writers."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import overload

import torch

from xmodal.atomic import atomic_path, remove_leftovers
from xmodal.errors import DataError
from xmodal.teachers.codec import DamagedError, from_bytes, to_bytes
from xmodal.teachers.teacher import FrameFiles, Teacher
from xmodal.values import FeatureMap, Image, Masks, Views

_log = logging.getLogger(__name__)
_SUFFIX = ".safetensors"


class TeacherCache:
    """A folder of teacher output, keyed by teacher fingerprint and image content.

    A run that was killed continues where it stopped: whatever has a file is not computed again. A
    file is complete or absent, carries a checksum, and is computed again when damaged. The folder
    never holds more than `budget_bytes`: before a file is written, those used longest ago go. Any
    number of processes may share the folder.
    """

    def __init__(self, root: Path, budget_bytes: int | None = None) -> None:
        """Open or prepare a cache; nothing is written yet.

        Args:
            root: Folder of the cache.
            budget_bytes: Most bytes of all files together; None for no limit.

        Raises:
            ValueError: If the budget is negative.
        """
        if budget_bytes is not None and budget_bytes < 0:
            raise ValueError(f"a disk budget must be zero bytes or more, got {budget_bytes}")
        self.root = root
        self.budget_bytes = budget_bytes
        self._said_too_large = False

    def fetch(self, teacher: Teacher, image: Image) -> FeatureMap | Masks:
        """The teacher's output for an image, from disk or computed and stored.

        Both ways give the same numbers: what is computed passes through the stored form.

        Raises:
            DataError: If the teacher gives numbers that are not finite, or the folder cannot be
                written to.
        """
        path = self.path(teacher, image)
        found = self._read(path, image)
        if found is not None:
            return found
        data = to_bytes(teacher.encode(image))
        self._write(path, data)
        return from_bytes(data, image)

    def path(self, teacher: Teacher, image: Image) -> Path:
        """Where the output for an image lies, whether or not it exists."""
        return self.root / teacher.fingerprint[:16] / f"{image_hash(image)[:32]}{_SUFFIX}"

    def size_bytes(self) -> int:
        """Bytes of all stored files."""
        return sum(size for _, size, _ in self._files())

    def _read(self, path: Path, image: Image) -> FeatureMap | Masks | None:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unusable(path, error) from error
        with suppress(OSError):  # evicted just now, or a cache that may only be read
            os.utime(path)  # last use, for the eviction
        try:
            return from_bytes(data, image)
        except DamagedError as error:
            _log.warning("frame %s: %s is damaged (%s); computed again", image.name, path, error)
            return None

    def _write(self, path: Path, data: bytes) -> None:
        if self.budget_bytes is not None and len(data) > self.budget_bytes:
            if not self._said_too_large:
                _log.warning(
                    "teacher output of %d bytes a frame exceeds the disk budget of %d bytes; "
                    "nothing is stored, it is computed whenever needed",
                    len(data),
                    self.budget_bytes,
                )
                self._said_too_large = True
            return
        with self._locked():
            remove_leftovers(path.parent)
            path.unlink(missing_ok=True)  # a damaged file of the same name
            self._make_room(len(data))
            with atomic_path(path) as temporary:
                temporary.write_bytes(data)

    def _make_room(self, needed: int) -> None:
        if self.budget_bytes is None:
            return
        files = sorted(self._files())
        total = sum(size for _, size, _ in files)
        for _, size, path in files:
            if total + needed <= self.budget_bytes:
                return
            path.unlink(missing_ok=True)
            total -= size

    def _files(self) -> list[tuple[int, int, Path]]:
        """Time of last use, size and path of every stored file."""
        found: list[tuple[int, int, Path]] = []
        for path in self.root.glob(f"*/*{_SUFFIX}"):
            try:
                status = path.stat()
            except FileNotFoundError:  # evicted by another process just now
                continue
            found.append((status.st_mtime_ns, status.st_size, path))
        return found

    @contextmanager
    def _locked(self) -> Generator[None]:
        """One writer at a time, so that the budget holds; the lock dies with its process."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            file = (self.root / ".lock").open("a")
        except OSError as error:
            raise _unusable(self.root, error) from error
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


class CachedViews(Sequence[FeatureMap | Masks]):
    """A teacher's output for every image of a scene: lazy, from memory, disk or the network."""

    def __init__(
        self,
        images: Views[Image],
        teacher: Teacher,
        cache: TeacherCache | None,
        *,
        memory_bytes: int = 256 << 20,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Wrap a scene's images; nothing is computed yet.

        Args:
            images: The views.
            teacher: Who describes them.
            cache: Where output is kept between runs; None keeps it in memory only.
            memory_bytes: Most bytes of output kept in memory; the last one always stays.
            progress: Called with (views computed or read so far, number of views) whenever a view
                is ready for the first time.

        Raises:
            DataError: If a teacher that reads files lacks those of some frames.
        """
        if isinstance(teacher, FrameFiles):
            # Its output lies on disk already. What is missing is told now, not after an hour.
            teacher.check_frames(list(getattr(images, "names", ())))
            cache = None
        self.images, self.teacher, self.cache = images, teacher, cache
        self._memory_bytes = memory_bytes
        self._progress = progress
        self._memory: OrderedDict[int, FeatureMap | Masks] = OrderedDict()
        self._used = 0
        self._seen: set[int] = set()

    def __len__(self) -> int:
        return len(self.images)

    @overload
    def __getitem__(self, index: int) -> FeatureMap | Masks: ...
    @overload
    def __getitem__(self, index: slice) -> CachedViews: ...
    def __getitem__(self, index: int | slice) -> FeatureMap | Masks | CachedViews:
        if isinstance(index, slice):
            return CachedViews(
                self.images[index],
                self.teacher,
                self.cache,
                memory_bytes=self._memory_bytes,
                progress=self._progress,
            )
        position = range(len(self.images))[index]  # IndexError and negative indices as usual
        if position in self._memory:
            self._memory.move_to_end(position)
            return self._memory[position]
        value = self._compute(self.images[position])
        self._remember(position, value)
        if position not in self._seen:
            self._seen.add(position)
            if self._progress is not None:
                self._progress(len(self._seen), len(self.images))
        return value

    def _compute(self, image: Image) -> FeatureMap | Masks:
        if self.cache is not None:
            return self.cache.fetch(self.teacher, image)
        # Through the stored form as well, so that a cache changes no number.
        return from_bytes(to_bytes(self.teacher.encode(image)), image)

    def _remember(self, position: int, value: FeatureMap | Masks) -> None:
        self._memory[position] = value
        self._used += _num_bytes(value)
        while self._used > self._memory_bytes and len(self._memory) > 1:
            _, oldest = self._memory.popitem(last=False)
            self._used -= _num_bytes(oldest)


def _unusable(path: Path, error: OSError) -> DataError:
    return DataError(
        str(path),
        wanted="a cache folder that can be read and written",
        got=error.strerror or str(error),
        fix="choose another cache folder, or correct its permissions",
    )


def image_hash(image: Image) -> str:
    """SHA-256 over an image's size and colours; its name and camera do not matter."""
    rgb = image.rgb.to(torch.float32).contiguous()
    digest = hashlib.sha256(f"{list(rgb.shape)};".encode())
    digest.update(rgb.numpy().data)
    return digest.hexdigest()


def _num_bytes(value: FeatureMap | Masks) -> int:
    tensors = [value.rows, value.valid, value.weight]
    if isinstance(value, Masks):
        tensors += [value.membership.crow, value.membership.col, value.membership.weight]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
