"""What a data set of rooms is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from xmodal.errors import UsageError

Sound = Literal["sweep", "clap", "noise"]
Source = Literal["self", "beside"]
SOUNDS: tuple[Sound, ...] = get_args(Sound)
SOURCES: tuple[Source, ...] = get_args(Source)
_MOST = 10_000


@dataclass(frozen=True, kw_only=True)
class RoomSet:
    """What a data set of rooms holds; the same options always give the same bytes.

    Attributes:
        num: Rooms to train on, named `train-0000` and so on.
        test: Other rooms, named `test-0000` and so on.
        mapped: Rooms to train on that somebody measured, the first ones; the others are heard and
            seen, but have no depth, classes and plan. All if None.
        places: Places in each room where somebody listens.
        seed: Moves the seeds of all rooms: another data set of the same kind.
        least_furniture: Least number of pieces that are put into a room; 0 allows empty rooms.
        most_furniture: Largest number; where there is no place, a piece is left out.
        source: Who makes the sound: the listener (`self`, echo-location), or somebody `beside`, at
            least a metre away in the same room.
        sound: A `sweep` of 3 ms, a `clap`, or half a second of `noise` with the rhythm of speech.
        duration_s: Length of what is recorded, from the moment the sound begins.
        rate_hz: Samples per second.
        early_order: Reflections that see furniture, up to this order.
        late_order: Reflections of the walls alone, up to this order.
        grid_hw: Rows and columns of the depth and class panoramas.
        rgb_hw: Rows and columns of the painted panorama.
        plan_cells: Cells along each side of the floor plan.
        cell_m: Side of a cell.
        voxel_cells: Voxels along each horizontal side of the volume around the listener.
        slices: Voxels from the floor up.
        voxel_m: Side of a voxel.
    """

    num: int = 80
    test: int = 20
    mapped: int | None = None
    places: int = 4
    seed: int = 0
    least_furniture: int = 2
    most_furniture: int = 6
    source: Source = "self"
    sound: Sound = "sweep"
    duration_s: float = 0.5
    rate_hz: int = 16000
    early_order: int = 3
    late_order: int = 20
    grid_hw: tuple[int, int] = (32, 64)
    rgb_hw: tuple[int, int] = (96, 192)
    plan_cells: int = 32
    cell_m: float = 0.25
    voxel_cells: int = 16
    slices: int = 7
    voxel_m: float = 0.5

    def seeds(self) -> dict[str, int]:
        """Name and seed of every room; a larger data set begins with the same rooms."""
        train = {f"train-{i:04d}": 2 * i for i in range(self.num)}
        return train | {f"test-{i:04d}": 2 * i + 1 for i in range(self.test)}

    def bare(self) -> frozenset[str]:
        """Names of the rooms without maps."""
        first = self.num if self.mapped is None else self.mapped
        return frozenset(f"train-{i:04d}" for i in range(first, self.num))


def check_rooms(options: RoomSet) -> None:
    """Refuse options that no rooms can be made of.

    Raises:
        UsageError: Naming the option, what it may be and what it is.
    """
    few, many = options.least_furniture, options.most_furniture
    limits = (
        ("num", 0 <= options.num <= _MOST, f"0 to {_MOST}", options.num),
        ("test", 0 <= options.test <= _MOST, f"0 to {_MOST}", options.test),
        ("num", options.num + options.test > 0, "at least one room", "no room"),
        (
            "mapped",
            options.mapped is None or 0 <= options.mapped <= options.num,
            f"0 to {options.num}, the rooms to train on",
            options.mapped,
        ),
        ("places", 1 <= options.places <= 100, "1 to 100", options.places),
        ("seed", options.seed >= 0, "0 or more", options.seed),
        ("furniture", 0 <= few <= many <= 12, "0 <= least <= most <= 12", f"{few} to {many}"),
        ("source", options.source in SOURCES, f"one of {', '.join(SOURCES)}", options.source),
        ("sound", options.sound in SOUNDS, f"one of {', '.join(SOUNDS)}", options.sound),
        ("duration_s", 0.05 <= options.duration_s <= 10, "0.05 to 10 s", options.duration_s),
        ("rate_hz", 8000 <= options.rate_hz <= 48000, "8000 to 48000 Hz", options.rate_hz),
        # A room with six pieces has about thirty surfaces, and each order multiplies by that.
        ("early_order", 0 <= options.early_order <= 4, "0 to 4", options.early_order),
        (
            "late_order",
            options.early_order <= options.late_order <= 60,
            "early_order to 60",
            options.late_order,
        ),
        ("grid_hw", all(4 <= n <= 1024 for n in options.grid_hw), "4 to 1024", options.grid_hw),
        ("rgb_hw", all(4 <= n <= 4096 for n in options.rgb_hw), "4 to 4096", options.rgb_hw),
        ("plan_cells", 4 <= options.plan_cells <= 512, "4 to 512", options.plan_cells),
        ("cell_m", 0.02 <= options.cell_m <= 1, "0.02 to 1 m", options.cell_m),
        ("voxel_cells", 4 <= options.voxel_cells <= 128, "4 to 128", options.voxel_cells),
        ("slices", 1 <= options.slices <= 128, "1 to 128", options.slices),
        ("voxel_m", 0.02 <= options.voxel_m <= 2, "0.02 to 2 m", options.voxel_m),
    )
    for name, fine, wanted, got in limits:
        if not fine:
            raise UsageError(
                f"rooms option {name}", wanted=wanted, got=str(got), fix=f"choose another {name}"
            )
