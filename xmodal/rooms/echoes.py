"""What is heard at a place: impulse responses by pyroomacoustics, and sounds in them.

Early reflections see furniture: images of the source in walls and in faces of furniture, with
whatever stands in between. Later ones are those of the walls alone, which absorb as
much as walls and furniture together; their number grows too fast with faces to do otherwise.

Source:
    Scheibler et al., Pyroomacoustics: a Python package for audio room simulation and array
    processing algorithms, ICASSP 2018; Allen and Berkley, Image method for efficiently simulating
    small-room acoustics, JASA 1979.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Float32
from numpy.typing import NDArray

from xmodal.errors import BackendError, UsageError
from xmodal.rooms.layout import Box, Listener, Reals, Room, turn

if TYPE_CHECKING:
    from types import ModuleType

    from xmodal.rooms.options import Sound

SPEED_MPS = 343.0
ARRAY_RADIUS_M = 0.1
# Corners of a tetrahedron: front left up, front right down, back left down, back right up, the
# order of first-order ambisonic microphones (A-format).
_CORNERS = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3)
# Pressure is 1 / metres, so the listener's own sound peaks at 10; echoes come on top of it.
_GAIN = 0.05
_SWEEP_S, _SWEEP_HZ = 0.003, (300.0, 7000.0)
_CLAP_S = 0.02
_NOISE_S, _SYLLABLE_HZ = 0.5, 4.0


def microphones(listener: Listener) -> Float[Reals, "4 3"]:
    """Places of the four microphones in the room's frame.

    Args:
        listener: Whose head they are around.
    """
    return ARRAY_RADIUS_M * _CORNERS @ turn(listener.heading_rad).T + np.array(listener.xyz)


def impulse_responses(
    room: Room, listener: Listener, *, rate_hz: int, early_order: int, late_order: int
) -> Float[Reals, "4 N"]:
    """Pressure at each microphone after an impulse at the source at time 0.

    Args:
        room: The room.
        listener: Where microphones and source are.
        rate_hz: Samples per second.
        early_order: Highest order of reflections that see furniture.
        late_order: Highest order of reflections of the walls.

    Raises:
        BackendError: If pyroomacoustics is not installed.
        UsageError: If furniture hides the source from a microphone in all early reflections.
    """
    pra = _pyroomacoustics()
    mics = microphones(listener)
    furnished = pra.Room(_walls(pra, room), fs=rate_hz, max_order=early_order)
    early = _responses(pra, furnished, listener, mics)
    if late_order == early_order:
        return early
    # Late reflections: all of the bare room, less its early ones.
    late, bare = (
        _responses(pra, _bare(pra, room, rate_hz, order), listener, mics)
        for order in (late_order, early_order)
    )
    whole = np.zeros((4, max(early.shape[1], late.shape[1], bare.shape[1])))
    whole[:, : early.shape[1]] += early
    whole[:, : late.shape[1]] += late
    whole[:, : bare.shape[1]] -= bare
    return whole


def excitation(kind: Sound, rate_hz: int, random: np.random.Generator) -> Float[Reals, " N"]:
    """A dry sound with a peak of 1.

    Args:
        kind: What is heard.
        rate_hz: Samples per second.
        random: Of claps and noise.
    """
    if kind == "sweep":
        time = np.arange(round(_SWEEP_S * rate_hz)) / rate_hz
        low, high = _SWEEP_HZ[0], min(_SWEEP_HZ[1], 0.45 * rate_hz)
        phase = 2 * np.pi * (low * time + (high - low) / (2 * _SWEEP_S) * time**2)
        sound = np.sin(phase) * np.hanning(len(time) + 2)[1:-1]
    elif kind == "clap":
        time = np.arange(round(_CLAP_S * rate_hz)) / rate_hz
        sound = random.standard_normal(len(time)) * np.exp(-time / (_CLAP_S / 5))
    else:
        num = round(_NOISE_S * rate_hz)
        # Speech falls by about six decibels an octave above its first formants.
        spectrum = np.fft.rfft(random.standard_normal(num))
        spectrum /= 1 + np.fft.rfftfreq(num, 1 / rate_hz) / 500
        rhythm = 0.5 - 0.5 * np.cos(2 * np.pi * _SYLLABLE_HZ * np.arange(num) / rate_hz)
        sound = np.fft.irfft(spectrum, num) * rhythm
    return sound / np.abs(sound).max()


def heard(
    responses: Float[Reals, "4 N"], sound: Float[Reals, " S"], num_samples: int
) -> Float32[NDArray[np.float32], "T 4"]:
    """What the microphones record, from the moment the sound begins; in [-1, 1].

    The gain is the same for all rooms, so that loudness means distance everywhere.

    Args:
        responses: Impulse responses.
        sound: The dry sound.
        num_samples: Length of the recording.
    """
    from scipy.signal import fftconvolve

    wet = fftconvolve(responses, sound[None], axes=1)[:, :num_samples] * _GAIN
    recorded = np.zeros((num_samples, 4), dtype=np.float32)
    recorded[: wet.shape[1]] = wet.T.clip(-1, 1)
    return recorded


def _responses(
    pra: ModuleType, simulated: Any, listener: Listener, mics: Float[Reals, "4 3"]
) -> Float[Reals, "4 N"]:
    """Impulse responses without the delay of the fractional-delay filters."""
    simulated.add_source(np.array(listener.source))
    simulated.add_microphone_array(mics.T)
    simulated.image_source_model()
    if not simulated.visibility[0].any(axis=1).all():
        raise UsageError(
            "echoes of rooms",
            wanted="sound that reaches every microphone",
            got="a source hidden by furniture, with its early reflections",
            fix="choose a higher early_order",
        )
    simulated.compute_rir()
    parts = [np.asarray(of_mic[0], dtype=np.float64) for of_mic in simulated.rir]
    before = pra.constants.get("frac_delay_length") // 2
    whole = np.zeros((len(parts), max(len(part) for part in parts) - before))
    for row, part in zip(whole, parts, strict=True):
        row[: len(part) - before] = part[before:]
    return whole


def _bare(pra: ModuleType, room: Room, rate_hz: int, order: int) -> Any:
    """The room without furniture, its walls absorbing as much as all surfaces do."""
    names = ("west", "east", "south", "north", "floor", "ceiling")
    areas = _wall_areas(room)
    pieces = sum(
        _area(low, high) * box.absorption
        for box in room.boxes
        for low, high in _faces(box)
        if not _on_wall(room, low, high)
    )
    more = pieces / float(areas.sum())
    materials = {
        name: pra.Material(energy_absorption=min(absorbed + more, 0.95))
        for name, absorbed in zip(names, room.walls, strict=True)
    }
    return pra.ShoeBox(np.array(room.size_m), fs=rate_hz, materials=materials, max_order=order)


def _wall_areas(room: Room) -> Reals:
    length, width, height = room.size_m
    sides = [width * height] * 2 + [length * height] * 2
    return np.array([*sides, length * width, length * width])


def _walls(pra: ModuleType, room: Room) -> list[Any]:
    """All surfaces, their normals away from the air."""
    zero, size = np.zeros(3), np.array(room.size_m)
    found: list[Any] = []
    for index, absorbed in enumerate(room.walls):
        axis, high = divmod(index, 2)
        low, top = zero.copy(), size.copy()
        low[axis] = top[axis] = size[axis] if high else 0.0
        found.append(_wall(pra, low, top, outward=bool(high), absorbed=absorbed))
    for box in room.boxes:
        # Faces on a wall stay: pyroomacoustics counts surfaces to tell inside from outside.
        for low, top in _faces(box):
            axis = int((low == top).argmax())
            # The air is outside of a box, so its normals point inwards.
            outward = bool(low[axis] == box.low[axis])
            found.append(_wall(pra, low, top, outward=outward, absorbed=box.absorption))
    return found


def _faces(box: Box) -> list[tuple[Reals, Reals]]:
    """Least and greatest corners of the six faces."""
    found: list[tuple[Reals, Reals]] = []
    for axis in range(3):
        for at in (box.low[axis], box.high[axis]):
            low, high = np.array(box.low), np.array(box.high)
            low[axis] = high[axis] = at
            found.append((low, high))
    return found


def _on_wall(room: Room, low: Reals, high: Reals) -> bool:
    axis = int((low == high).argmax())
    return float(low[axis]) in (0.0, room.size_m[axis])


def _area(low: Reals, high: Reals) -> float:
    sides = sorted(high - low)
    return float(sides[1] * sides[2])


def _wall(pra: ModuleType, low: Reals, high: Reals, *, outward: bool, absorbed: float) -> Any:
    """A rectangle whose normal points along its axis (`outward`) or against it."""
    axis = int((low == high).argmax())
    first, second = (axis + 1) % 3, (axis + 2) % 3
    corners = np.tile(low, (4, 1))
    corners[1, first] = corners[2, first] = high[first]
    corners[2, second] = corners[3, second] = high[second]
    corners = corners if outward else corners[::-1]
    return pra.wall_factory(np.ascontiguousarray(corners.T), [absorbed], [0.0])


def _pyroomacoustics() -> ModuleType:
    try:
        import pyroomacoustics
    except ImportError as error:
        raise BackendError(
            "echoes of rooms",
            wanted="pyroomacoustics",
            got="not installed",
            fix='pip install "xmodal[rooms]"',
        ) from error
    return pyroomacoustics
