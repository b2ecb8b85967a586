"""Text files of a COLMAP model, read line by line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from xmodal.datasets.colmap_entries import (
    NUM_PARAMETERS,
    ColmapCamera,
    ColmapImage,
    Numbers,
    read_bytes,
    wrong,
)

# Text models of the largest public scenes take about a gigabyte.
_MAX_TEXT_BYTES = 4_000_000_000


def text_cameras(path: Path) -> tuple[Iterator[tuple[int, ColmapCamera, str]], int | None]:
    """Number, camera and place of every line of `cameras.txt`, and how many it announces."""
    lines, said = _lines(path)
    return (_text_camera(words.split(), where) for words, where in lines if words), said


def _text_camera(words: list[str], where: str) -> tuple[int, ColmapCamera, str]:
    wanted = "CAMERA_ID MODEL WIDTH HEIGHT and the model's parameters"
    if len(words) < 4:
        raise wrong(where, wanted, " ".join(words))
    size = NUM_PARAMETERS.get(words[1])
    if size is None:
        raise wrong(where, f"a camera model of {', '.join(NUM_PARAMETERS)}", words[1])
    if len(words) != 4 + size:
        got = f"{len(words) - 4} parameters"
        raise wrong(where, f"the {size} parameters of {words[1]}", got)
    number, width, height = _integers([words[0], words[2], words[3]], where, wanted)
    parameters = _floats(words[4:], where, wanted)
    camera = ColmapCamera(model=words[1], width=width, height=height, parameters=parameters)
    return number, camera, where


def text_images(path: Path) -> tuple[Iterator[ColmapImage], int | None]:
    """Every picture of `images.txt`, and how many it announces."""
    lines, said = _lines(path)
    return _text_pairs(lines), said


def _text_pairs(lines: list[tuple[str, str]]) -> Iterator[ColmapImage]:
    """Two lines a picture: itself, and the points seen in it, which may be an empty line."""
    wanted = "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME"
    index = 0
    while index < len(lines):
        text, where = lines[index]
        index += 1
        if not text:
            continue
        words = text.split(maxsplit=9)  # names may have blanks
        if len(words) < 10:
            raise wrong(where, wanted, text[:80])
        _, camera_id = _integers([words[0], words[8]], where, wanted)
        pose = _floats(words[1:8], where, wanted)
        yield ColmapImage(
            name=words[9], camera_id=camera_id, q_wxyz=pose[:4], t=pose[4:], where=where
        )
        if index < len(lines) and not _is_picture(lines[index][0]):
            seen, below = lines[index]
            if len(seen.split()) % 3:
                fix = "X Y POINT3D_ID for each point seen, or an empty line where there is none"
                raise wrong(below, fix, f"{seen[:60]!r}")
            index += 1


def _is_picture(text: str) -> bool:
    """Whether a line names a picture: where the empty lines below pictures were lost."""
    words = text.split(maxsplit=9)
    if len(words) < 10:
        return False
    try:
        # The name of a picture where points have a number; a line of points is long, and its
        # tenth word is the X of the fourth.
        float(words[9].split(maxsplit=1)[0])
    except ValueError:
        return True
    return False


def text_points(path: Path) -> tuple[Iterator[Numbers], int | None]:
    """What `colmap_binary.binary_points` gives, of `points3D.txt`, and how many it announces."""
    lines, said = _lines(path)
    return (_text_point(text.split(), where) for text, where in lines if text), said


def _text_point(words: list[str], where: str) -> Numbers:
    wanted = "POINT3D_ID X Y Z R G B ERROR and pairs IMAGE_ID POINT2D_IDX"
    if len(words) < 8 or len(words) % 2:
        raise wrong(where, wanted, " ".join(words)[:80])
    xyz, error = _floats(words[1:4], where, wanted), _floats(words[7:8], where, wanted)
    rgb = _integers(words[4:7], where, wanted)
    if not all(0 <= channel <= 255 for channel in rgb):
        raise wrong(where, "R G B from 0 to 255", " ".join(words[4:7]))
    return (*xyz, *(float(channel) for channel in rgb), *error, float((len(words) - 8) // 2))


def _lines(path: Path) -> tuple[list[tuple[str, str]], int | None]:
    """Lines with their place, comments left out, and the number of entries that a comment says."""
    raw = read_bytes(path, max_bytes=_MAX_TEXT_BYTES)
    try:
        texts = raw.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise wrong(path, "a text file in UTF-8", str(error)) from error
    said = None
    lines: list[tuple[str, str]] = []
    for number, line in enumerate(texts, start=1):
        text = line.strip()
        if not text.startswith("#"):
            lines.append((text, f"{path}:{number}"))
        elif said is None and text.lower().startswith("# number of "):
            digits = text.partition(":")[2].split(",")[0].strip()
            said = int(digits) if digits.isdecimal() else None
    return lines, said


def _integers(words: list[str], where: str, wanted: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in words)
    except ValueError as error:
        raise wrong(where, wanted, str(error)) from error


def _floats(words: list[str], where: str, wanted: str) -> Numbers:
    try:
        return tuple(float(word) for word in words)
    except ValueError as error:
        raise wrong(where, wanted, str(error)) from error
