"""Whether a file of sound or film is whole, from what its container says of itself.

Decoders give what they find and do not complain about what is missing, so a cut file would pass as
a shorter one. These checks read a few headers, never the data.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from xmodal.errors import DataError

_FETCH = "fetch or export the file again"
_MAX_CHUNKS = 4096
# Lengths that programs write when they stream and cannot come back to the header.
_UNKNOWN_LENGTHS = (0xFFFFFFFF, 0xFFFFFFFE, 0x7FFFFFFF)
_OGG_LAST_PAGE = 0x04
_OGG_TAIL_BYTES = 70_000  # a page has at most 65,307 bytes


def refuse_empty(path: Path, what: str) -> int:
    """Size of a file in bytes.

    Raises:
        DataError: If it is not there, no file, or empty.
    """
    if not path.is_file():
        got = "a folder" if path.is_dir() else "no such file"
        raise DataError(str(path), wanted=what, got=got, fix="correct the path")
    size = path.stat().st_size
    if not size:
        raise DataError(str(path), wanted=what, got="an empty file", fix=_FETCH)
    return size


def refuse_cut(path: Path) -> None:
    """Check the length that WAV, AIFF, Ogg, MP4, Matroska and AVI files claim against the file.

    Other files pass; their decoders complain, or nobody can know.

    Raises:
        DataError: If the file is shorter than it says, or its header contradicts itself.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
            _check_wav(file, path, size)
        elif head[:4] == b"FORM" and head[8:11] == b"AIF":
            _check_size(path, size, struct.unpack(">I", head[4:8])[0] + 8)
        elif head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            _check_size(path, size, struct.unpack("<I", head[4:8])[0] + 8)
        elif head[:4] == b"\x1aE\xdf\xa3":
            _check_matroska(file, path, size)
        elif head[:4] == b"OggS":
            _check_ogg(file, path, size)
        elif head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            _check_boxes(file, path, size)


# ---- WAV ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _WavFormat:
    code: int
    channels: int
    rate_hz: int
    bytes_per_s: int
    frame_bytes: int
    bits: int


def _check_wav(file: BinaryIO, path: Path, size: int) -> None:
    found: _WavFormat | None = None
    large: int | None = None  # length of the samples where 32 bits do not hold it
    place = 12
    for _ in range(_MAX_CHUNKS):
        file.seek(place)
        head = file.read(8)
        if len(head) < 8:
            break
        name, length = head[:4], struct.unpack("<I", head[4:])[0]
        if name == b"fmt ":
            found = _wav_format(file.read(min(length, 16)), path)
        elif name == b"ds64":
            large = struct.unpack("<8xQ", file.read(16).ljust(16, b"\0"))[0]
        elif name == b"data":
            length = length if large is None else large
            _check_wav_data(path, found, length, size - place - 8)
            return
        place += 8 + length + length % 2
    raise DataError(
        str(path), wanted="a WAV file with a `data` chunk", got=f"none in {size} bytes", fix=_FETCH
    )


def _wav_format(raw: bytes, path: Path) -> _WavFormat:
    if len(raw) < 16:
        raise DataError(
            str(path),
            wanted="16 bytes of `fmt ` in the WAV header",
            got=f"{len(raw)} bytes",
            fix=_FETCH,
        )
    found = _WavFormat(*struct.unpack("<HHIIHH", raw))
    wrong = ""
    if not found.channels or not found.rate_hz or not found.frame_bytes:
        wrong = f"{found.channels} channels, {found.rate_hz} Hz, {found.frame_bytes} bytes a frame"
    # Compressed codes keep blocks where plain samples keep frames.
    elif found.code in (1, 3, 0xFFFE):
        if found.frame_bytes != found.channels * ((found.bits + 7) // 8):
            wrong = (
                f"{found.frame_bytes} bytes a frame for {found.channels} channels of "
                f"{found.bits} bits"
            )
        elif found.bytes_per_s != found.rate_hz * found.frame_bytes:
            wrong = (
                f"{found.bytes_per_s} bytes a second for {found.rate_hz} Hz and "
                f"{found.frame_bytes} bytes a frame"
            )
    if wrong:
        raise DataError(
            str(path),
            wanted="a WAV header that agrees with itself",
            got=wrong,
            fix="export the file again; its rate or number of channels cannot be trusted",
        )
    return found


def _check_wav_data(path: Path, found: _WavFormat | None, length: int, there: int) -> None:
    if found is None:
        raise DataError(
            str(path), wanted="`fmt ` before `data` in the WAV file", got="none", fix=_FETCH
        )
    if length in _UNKNOWN_LENGTHS or (length == 0 and there > 1):
        raise DataError(
            str(path),
            wanted="a WAV header that says how long the sound is",
            got=f"a length of {length} and {there} bytes of data, as programs write to a pipe",
            fix="write the file to disk, or run it through `ffmpeg -i IN.wav -c copy OUT.wav`",
        )
    if length > there:
        rate = found.rate_hz * found.frame_bytes
        raise DataError(
            str(path),
            wanted=f"{length} bytes of samples ({length / rate:.3f} s), as the header says",
            got=f"{there} bytes ({there / rate:.3f} s)",
            fix=_FETCH,
        )
    if found.code in (1, 3, 0xFFFE) and length % found.frame_bytes:
        raise DataError(
            str(path),
            wanted=f"whole frames of {found.frame_bytes} bytes",
            got=f"{length} bytes: {length % found.frame_bytes} too many",
            fix="export the file again; its number of channels or bits is not what it says",
        )


# ---- AIFF, AVI, Matroska -----------------------------------------------------------------------


def _check_size(path: Path, size: int, wanted: int) -> None:
    if wanted > size:
        raise DataError(
            str(path),
            wanted=f"a file of {wanted} bytes, as its header says",
            got=f"{size} bytes: the file is cut",
            fix=_FETCH,
        )


def _check_matroska(file: BinaryIO, path: Path, size: int) -> None:
    """The header, then one segment that holds everything and says how long it is."""
    file.seek(4)
    header_bytes, width = _variable_length(file)
    segment = 4 + width + header_bytes
    file.seek(segment)
    if file.read(4) != b"\x18S\x80g":
        raise DataError(
            f"{path}, offset {segment}",
            wanted="a segment after the header of the Matroska file",
            got="something else, or the end of the file",
            fix=_FETCH,
        )
    segment_bytes, width = _variable_length(file)
    if segment_bytes != (1 << 7 * width) - 1:  # all ones: written to a pipe, nobody knows
        _check_size(path, size, segment + 4 + width + segment_bytes)


def _variable_length(file: BinaryIO) -> tuple[int, int]:
    """A length of Matroska and how many bytes it takes: as many as its first byte has zeros."""
    first = (file.read(1) or b"\0")[0]
    if not first:
        return 0, 1
    width = 9 - first.bit_length()
    marker = 1 << (8 - width)
    return int.from_bytes(bytes([first - marker]) + file.read(width - 1), "big"), width


# ---- Ogg and MP4 -------------------------------------------------------------------------------


def _check_ogg(file: BinaryIO, path: Path, size: int) -> None:
    file.seek(max(0, size - _OGG_TAIL_BYTES))
    tail = file.read()
    last = tail.rfind(b"OggS")
    if last >= 0 and len(tail) >= last + 27:
        segments = tail[last + 26]
        body = sum(tail[last + 27 : last + 27 + segments])
        whole = len(tail) >= last + 27 + segments + body
        if whole and tail[last + 5] & _OGG_LAST_PAGE:
            return
    raise DataError(
        str(path),
        wanted="an Ogg file that ends with a whole page marked as the last",
        got=f"{size} bytes that stop before it: the file is cut",
        fix=_FETCH,
    )


def _check_boxes(file: BinaryIO, path: Path, size: int) -> None:
    place, names = 0, set[bytes]()
    for _ in range(_MAX_CHUNKS):
        file.seek(place)
        head = file.read(16)
        if len(head) < 8:
            break
        length, name = struct.unpack(">I4s", head[:8])
        if length == 1 and len(head) == 16:
            length = struct.unpack(">Q", head[8:])[0]
        elif length == 0:  # up to the end of the file
            length = size - place
        if length < 8:
            break
        names.add(name)
        if place + length > size:
            raise DataError(
                f"{path}, offset {place}",
                wanted=f"a box {name.decode('latin-1')!r} of {length} bytes, as the film says",
                got=f"{size - place} bytes: the file is cut",
                fix=_FETCH,
            )
        place += length
    if not names & {b"moov", b"moof"}:
        raise DataError(
            str(path),
            wanted="a film with its table of frames (a `moov` box)",
            got=f"none in {size} bytes: the file is cut or was not closed",
            fix=_FETCH,
        )
