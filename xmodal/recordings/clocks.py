"""Files of one recording whose clocks were started by hand: how late each is behind the film."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from lifting.signals.lags import Lag
from xmodal.atomic import sha256_file, write_json, write_text
from xmodal.errors import DataError
from xmodal.graph.ports import Kind

_log = logging.getLogger(__name__)

TABLE = "clocks.csv"
_COLUMNS = ("name", "stream", "against", "lag_s", "strength", "trusted", "reason")
# Correlation from which a lag is believed. Foreign readings fit a few seconds of film up to 0.86
# (three axes, a free smoothing), foreign sounds fit each other far less.
LEAST_STRENGTH: Mapping[Kind, float] = {"imu": 0.9, "audio": 0.3}
# So much of a film is looked at: a lag is the same all along.
_LOOK_S = 120.0
# A lag of sounds is then right to a tenth of a millisecond.
_SOUND_HZ = 8000.0
_MAX_SIDE = 160
# Raise when the same files would give another lag.
_REVISION = 1


@dataclass(frozen=True, kw_only=True)
class ClockLag:
    """How late one file is behind the film beside it.

    Attributes:
        name: The recording.
        stream: What the file holds.
        against: What of the film it was compared with.
        seconds: Positive if its time stamps are later than the film's; NaN if none was found.
        strength: Correlation at that lag.
        trusted: Whether the two agree so well that it is believed.
        reason: Why no lag was found.
    """

    name: str
    stream: Kind
    against: Literal["pictures", "sound"]
    seconds: float
    strength: float
    trusted: bool
    reason: str = ""

    def text(self) -> str:
        """One line for people."""
        pair = f"{self.name}: {self.stream} against the {self.against} of the film"
        if math.isnan(self.seconds):
            return f"{pair}: no lag found, {self.reason}"
        late = f"{abs(self.seconds) * 1000:.1f} ms {'later' if self.seconds >= 0 else 'earlier'}"
        weak = f", too weak to be believed (below {LEAST_STRENGTH[self.stream]:g})"
        return f"{pair}: {late}, strength {self.strength:.3f}{'' if self.trusted else weak}"


def find_clocks(
    name: str, paths: Mapping[Kind, Path], max_lag_s: float, *, sounds: bool
) -> tuple[ClockLag, ...]:
    """Compare inertial readings with how the film turns, and a sound file with the film's sound.

    What was found once for the same files is kept in the user's cache folder.

    Args:
        name: Of the recording.
        paths: Its files.
        max_lag_s: Largest lag to look for, either way.
        sounds: Whether the film has a sound.

    Raises:
        DataError: If a file is damaged.
    """
    film = paths.get("video")
    if film is None:
        return ()
    found: list[ClockLag] = []
    if "imu" in paths:
        imu = paths["imu"]
        lag = _kept("imu", film, imu, max_lag_s, lambda: _of_readings(film, imu, max_lag_s))
        found.append(_judged(name, "imu", "pictures", lag))
    if "audio" in paths and sounds:
        sound = paths["audio"]
        lag = _kept("audio", film, sound, max_lag_s, lambda: _of_sound(film, sound, max_lag_s))
        found.append(_judged(name, "audio", "sound", lag))
    for one in found:
        if not one.trusted:
            _log.warning("%s; its clock is left as it is", one.text())
    return tuple(found)


def write_clocks(path: Path, clocks: Sequence[ClockLag]) -> None:
    """Write lags as a csv file.

    Args:
        path: The file.
        clocks: One line each.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for c in clocks:
        numbers = (f"{c.seconds:.6f}", f"{c.strength:.4f}")
        writer.writerow([c.name, c.stream, c.against, *numbers, str(c.trusted).lower(), c.reason])
    write_text(path, out.getvalue())


def nothing_to_align(where: str, recordings: Mapping[str, Iterable[str]]) -> DataError:
    """The error where no film has a file beside it.

    Args:
        where: The folder or setting.
        recordings: Names, and what each holds.
    """
    return DataError(
        where,
        wanted="a film, and readings or a sound in a file beside it: NAME.mp4 and NAME_imu.csv",
        got=", ".join(
            f"{name} with {', '.join(recordings[name])}" for name in list(recordings)[:4]
        ),
        fix="add the files, or leave their time stamps as they are",
    )


# ---- pairs of files ----------------------------------------------------------------------------

_Found = Lag | str


def _of_readings(film: Path, path: Path, max_lag_s: float) -> _Found:
    from xmodal.recordings.alignment import film_imu_lag
    from xmodal.recordings.imu_files import read_imu
    from xmodal.recordings.video_files import read_video

    pictures, imu = read_video(film, max_side=_MAX_SIDE, until_s=_LOOK_S), read_imu(path)
    return _or_reason(lambda: film_imu_lag(pictures, imu, max_lag_s=max_lag_s))


def _of_sound(film: Path, path: Path, max_lag_s: float) -> _Found:
    from xmodal.recordings.alignment import sound_lag
    from xmodal.recordings.audio_files import read_audio, sound_seconds

    theirs = read_audio(film, rate_hz=_SOUND_HZ, mics=1)
    look_s = min(sound_seconds(path), _LOOK_S + max_lag_s)
    mine = read_audio(path, rate_hz=_SOUND_HZ, mics=1, span_s=(0.0, look_s))
    return _or_reason(lambda: sound_lag(theirs, mine, max_lag_s=max_lag_s))


def _or_reason(estimate: Callable[[], Lag]) -> _Found:
    """A lag, or why there is none: a film that stands still is no fault of the files."""
    try:
        return estimate()
    except DataError as error:
        return error.got


def _judged(
    name: str, stream: Kind, against: Literal["pictures", "sound"], found: _Found
) -> ClockLag:
    lag = Lag(seconds=math.nan, strength=0.0) if isinstance(found, str) else found
    return ClockLag(
        name=name,
        stream=stream,
        against=against,
        seconds=lag.seconds,
        strength=lag.strength,
        trusted=lag.strength >= LEAST_STRENGTH[stream],
        reason=found if isinstance(found, str) else "",
    )


def _kept(
    stream: Kind, film: Path, other: Path, max_lag_s: float, find: Callable[[], _Found]
) -> _Found:
    from xmodal.teachers.weights import user_cache

    told = [_REVISION, stream, sha256_file(film), sha256_file(other), max_lag_s]
    key = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]
    path = user_cache() / "clocks" / f"{key}.json"
    with suppress(OSError, ValueError, TypeError):
        known = json.loads(path.read_text(encoding="utf-8"))
        return known if isinstance(known, str) else Lag(**known)
    found = find()
    with suppress(DataError):  # a folder that cannot be written to: found anew next time
        write_json(path, found if isinstance(found, str) else asdict(found))
    return found
