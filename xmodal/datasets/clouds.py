"""The points that come with a scene: a PLY cloud, points of COLMAP, or a room of S3DIS."""

from __future__ import annotations

from pathlib import Path

from xmodal.datasets.colmap import is_colmap_cloud, read_colmap_cloud
from xmodal.datasets.s3dis import is_room, read_room, room_files
from xmodal.errors import DataError
from xmodal.ply import PlyCloud, read_points


def given_cloud(root: Path, named: Path | None = None) -> Path | None:
    """The file or folder that a scene's points come from; None when it has none.

    Args:
        root: The scene folder.
        named: A cloud that the layout names; `points.ply` goes before it.

    Raises:
        DataError: If there are several.
    """
    if (root / "points.ply").exists():
        return root / "points.ply"
    if named is not None:
        return named
    found = sorted(p for p in root.glob("*_vh_clean_2.ply") if not p.name.startswith("."))
    if len(found) > 1:
        raise DataError(
            str(root),
            wanted="at most one cloud",
            got=", ".join(p.name for p in found),
            fix="keep the one to lift to, or name it points.ply",
        )
    if found:
        return found[0]
    return root if is_room(root) else None


def cloud_files(source: Path) -> tuple[Path, ...]:
    """The files that a cloud of `given_cloud` is read from, in a fixed order."""
    return room_files(source) if source.is_dir() else (source,)


def read_cloud(source: Path) -> PlyCloud:
    """Read what `given_cloud` found.

    Raises:
        DataError: If it is damaged.
    """
    if is_colmap_cloud(source):
        return read_colmap_cloud(source)
    return read_room(source) if source.is_dir() else read_points(source)
