"""`python -m benchmarks.report`: writes the results section of README.md from `results/*.json`.

Everything between the two markers is replaced; nothing else is touched. A record that does not
exist is left out, with a line that says which command makes it. `--check` changes nothing and
exits 1 where the section is not what the records give.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.__main__ import NAMES
from benchmarks.records import (
    COMMANDS,
    RESULTS,
    FigureRecord,
    Figures,
    JobName,
    JobRecord,
    read_figures,
    read_job,
)
from xmodal.atomic import write_text
from xmodal.errors import DataError
from xmodal.evaluate import Table

README = RESULTS.parent.parent / "README.md"
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"

_INTRO = (
    "Written by `python -m benchmarks.report` from the records in "
    "[`benchmarks/results`](benchmarks/results); each carries its date, versions, seed and command."
)
_KITCHEN: dict[JobName, str] = {
    "kitchen": "Asked in words (teacher: `{teacher}`)",
    "kitchen_dino": "Asked by a click in another frame (teacher: `{teacher}`)",
}
_KITCHEN_TEXT = (
    "{frames} frames of a real kitchen (7-Scenes), {points:,} points. A hit: the pixel of highest "
    "relevancy lies inside a box of the thing asked for; *strict*: and not on a smaller labelled "
    "object. The same teacher output in all arms; 95 % bootstrap intervals over pairs."
)
_WORLD_TEXT = (
    "A table-top world that the project makes itself, with a seed that no choice was made on: "
    "{frames} views, {points:,} points with exact labels, every object asked for by its name "
    "(teacher: `{teacher}`). Intervals are over objects."
)
_APC_TEXT = (
    "15 robot-arm views of a shelf with two labelled objects. Each view is left out in turn; its "
    "points read the label maps of the other views, all together by the lift operator (fused) or "
    "one view at a time (neighbour), with the same geometry and the same test of visibility. "
    "(a): a pixel without a prediction is a miss; against the best of the 14 neighbours. "
    "(b): only pixels that both observe; against the median neighbour. Much of (a) is coverage, "
    "as the lower half of the table shows: once the small holes in all depth maps are closed, "
    "the best neighbour observes almost as much of the foreground as all views together."
)
_COST_TEXT = "Wall time and peak memory of each verb, start of Python included."
_SPEED_TEXT = (
    "Ours against the peer's algorithm on the same inputs, interleaved in one process, the least "
    "of at least five runs; extra memory in fresh processes."
)
# What is timed, and the peer: name and suffix of the figures -> words.
_TIMED: dict[str, tuple[str, str]] = {
    "fusion": ("fuse 20 views into 200k points, 512-d", "OpenScene's map-and-average"),
    "projection": ("project 200k points into 20 views, visibility", "numpy mapper"),
    "sampling": ("sample patches, image of 240 rows", "up-sample, then gather"),
    "sampling_480": ("sample patches, image of 480 rows", "up-sample, then gather"),
    "scatter": ("mean of 400k rows in 150k segments, 512-d", "torch_scatter"),
    "scatter_64": ("the same, 64-d", "torch_scatter"),
    "scatter_1000": ("the same, 1000-d", "torch_scatter"),
    "scatter_sorted": ("the same, 512-d, index in order", "torch_scatter"),
    "query": (
        "which of 20 prompts, 1M x 512, rows in bf16",
        "the same in float32",
    ),
    "splat_codes": (
        "which of 20 prompts, 200k x 512, rows in component codes",
        "decode, then the same in float32",
    ),
    "loss": (
        "cosine loss, 100k x 768, forward and backward",
        "`1 - cosine_similarity(..).mean()`",
    ),
    "loss_fp16": ("the same, teacher in half precision", "the same, brought to float32"),
    "loss_kl": ("KL loss, 50k x 1000, forward and backward", "`kl_div(student.log(), teacher)`"),
    "queue_loss": (
        "likeness of 64 rows to a queue of 16,384, 128-d, forward and backward",
        "`kl_div` of two soft-maxes",
    ),
    "queue_loss_long": ("the same, a queue of 65,536", "the same"),
    "sparse_conv": (
        "sub-manifold convolution, 58k voxels, 32 to 32 channels, 3x3x3, from cells to rows",
        "spconv on one thread",
    ),
    "splat_render": (
        "render 512 channels of 20k splats at 160 x 120, size 1 px",
        "tile rasteriser, 32 channels at a time",
    ),
    "splat_render_large": ("the same, size 2 px", "the same"),
    "splat_render_small": ("the same, size 0.7 px", "the same"),
    "splat_lift": (
        "lift 4 maps of 40 x 30 x 512 to 20k splats",
        "automatic differentiation of a renderer, 32 channels at a time",
    ),
    "logmel": ("log-mel map of a minute of sound, 16 kHz, 64 mels", "librosa"),
    "logmel_general": ("the same, 32 kHz, powers", "librosa"),
    "logmel_clips": ("the same, 64 windows of 0.96 s at 16 kHz", "librosa"),
    "clip_students": ("10 windows of sound through `audio_cnn`, `micro`, as ONNX", "torch"),
    "clip_students_audio_tiny": ("the same, `tiny`", "torch"),
    "clip_students_audio_small": ("the same, `small`", "torch"),
    "clip_students_audio_base": ("the same, `base`", "torch"),
    "clip_students_spectrogram_tiny": ("the same, `audio_transformer`, `tiny`", "torch"),
    "clip_students_grids_tiny": ("the same, `grid_decoder`, `tiny`, two microphones", "torch"),
    "clip_students_imu_micro": ("10 windows of readings, `imu_tcn`, `micro`, as ONNX", "torch"),
    "clip_students_imu_tiny": ("the same, `tiny`", "torch"),
    "clip_students_imu_patches_tiny": ("the same, `imu_transformer`, `tiny`", "torch"),
    "clip_students_skeleton_tiny": ("10 windows of joints, `skeleton_net`, `tiny`", "torch"),
    "voxelize": ("voxelise 1M points, 5 cm", "sort and unique on hashed keys"),
    "voxelize_unique": ("voxelise 1M points, 5 cm", "`np.unique(axis=0)`"),
    "voxelize_2cm": ("voxelise 1M points, 2 cm", "sort and unique on hashed keys"),
    "voxelize_unique_2cm": ("voxelise 1M points, 2 cm", "`np.unique(axis=0)`"),
}
_GROWTH = ("slope_points", "slope_views", "slope_channels", "memory_span_mb", "memory_per_view_mb")


def section(folder: Path = RESULTS) -> str:
    """The results as markdown, without the markers.

    Raises:
        DataError: If a record is damaged.
    """
    parts = [
        _INTRO,
        "### Where is it? A real kitchen",
        *_kitchen(folder),
        "### What is where? A generated table top",
        *_world(folder),
        "### What fusing views is worth",
        *_apc(folder),
        "### What it costs",
        *_cost(folder),
        "### Speed",
        *_speed(folder),
    ]
    return "\n\n".join(part.strip() for part in parts if part.strip())


def insert(readme: str, results: str) -> str:
    """The page with the results between its markers.

    Raises:
        DataError: If the page does not have each marker once, in order.
    """
    begin, end = readme.find(BEGIN), readme.find(END)
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or begin > end:
        raise DataError(
            "README.md",
            wanted=f"{BEGIN} and after it {END}, each once",
            got=f"{readme.count(BEGIN)} and {readme.count(END)}" + " in turn" * (begin > end),
            fix="put the two markers, each on a line of its own, where the results belong",
        )
    return f"{readme[: begin + len(BEGIN)]}\n{results}\n{readme[end:]}"


# ---- the main job ------------------------------------------------------------------------------


def _kitchen(folder: Path) -> list[str]:
    parts: list[str] = []
    for name, title in _KITCHEN.items():
        record = read_job(name, folder)
        if record is None:
            parts.append(_missing(name))
            continue
        if name == "kitchen":
            parts.append(_about(_KITCHEN_TEXT, record))
        summary = record.table("localisation", title.format(teacher=record.teacher))
        pairs = record.table("localisation_pairs", "Every pair")
        parts += [_whole(summary), _folded(pairs), _source(record)]
    return parts


def _world(folder: Path) -> list[str]:
    record = read_job("world", folder)
    if record is None:
        return [_missing("world")]
    table = record.table("metrics", "3D IoU")
    if table is None:
        return [_about(_WORLD_TEXT, record), _source(record)]
    ends = [str(row[0]).startswith("mean IoU") for row in table.rows]
    split = ends.index(True) if any(ends) else 0
    whole = Table("3D IoU", ("", *table.columns[1:]), table.rows[split:])
    objects = Table("Every object", table.columns, table.rows[:split])
    return [_about(_WORLD_TEXT, record), _whole(whole), _folded(objects), _source(record)]


def _cost(folder: Path) -> list[str]:
    rows: list[tuple[str | float, ...]] = []
    for name in ("kitchen", "kitchen_dino", "world"):
        record = read_job(name, folder)
        if record is None:
            continue
        for verb, cost in record.cost.items():
            job = f"{name}: {record.frames} frames, {record.points:,} points, {record.teacher}"
            rows.append(
                (job, f"`{verb}`", _minutes(cost.seconds), f"{cost.peak_mb / 1024:.1f} GB",
                 record.machine)
            )  # fmt: skip
    if not rows:
        return [_missing("kitchen")]
    table = Table("", ("job", "verb", "time", "peak memory", "machine"), tuple(rows))
    return [_COST_TEXT, _bare(table)]


def _about(text: str, record: JobRecord) -> str:
    return text.format(frames=record.frames, points=record.points, teacher=record.teacher)


# ---- figures -----------------------------------------------------------------------------------


def _apc(folder: Path) -> list[str]:
    record = read_figures("apc_fusion", folder)
    if record is None:
        return [_missing("apc_fusion")]
    tables = [
        _folded(entry.table()) if entry.folded else _whole(entry.table()) for entry in record.tables
    ]
    return [_APC_TEXT, *tables, _source(record)]


def _speed(folder: Path) -> list[str]:
    record = read_figures("speed", folder)
    if record is None:
        return [_missing("speed")]
    rows = [row for figures in record.figures for row in _timed(figures)]
    columns = ("what", "peer", "ours", "peer's", "faster", "extra memory, ours / peer's")
    parts = [_SPEED_TEXT, _bare(Table("", columns, tuple(rows)))]
    absent = sorted(set(NAMES) - {str(figures["name"]) for figures in record.figures})
    if absent:
        parts.append(f"Not measured: {', '.join(absent)}; `make bench-env` installs the peers.")
    for figures in record.figures:
        parts += _fidelity(figures) + _growth(figures) + _coded(figures)
    return [*parts, _source(record)]


def _timed(figures: Figures) -> list[tuple[str, ...]]:
    """One row for each setting that has a ratio; growth is told in words."""
    name = str(figures["name"])
    if name == "slopes":
        return []
    suffixes = [key.removeprefix("ours_s") for key in figures if key.startswith("ours_s")]
    return [_row(figures, name, suffix) for suffix in suffixes]


def _row(figures: Figures, name: str, suffix: str) -> tuple[str, ...]:
    what, peer = _TIMED.get(name + suffix, (name + suffix, "-"))
    ours_mb, peer_mb = (float(figures[f"{arm}_peak_mb{suffix}"]) for arm in ("ours", "peer"))
    return (
        what,
        peer,
        _seconds(float(figures[f"ours_s{suffix}"])),
        _seconds(float(figures[f"peer_s{suffix}"])),
        f"**{float(figures[f'ratio{suffix}']):.3g}x**",
        f"{ours_mb:.0f} / {peer_mb:.0f} MB",
    )


def _fidelity(figures: Figures) -> list[str]:
    if "mean_cosine" not in figures:
        return []
    return [
        f"Fused features agree with a float64 brute force to a mean cosine of "
        f"{float(figures['mean_cosine']):.6f}; {figures.get('border_points', 0)} points on pixel "
        f"borders round differently, {figures.get('unexplained_points', 0)} others do."
    ]


def _coded(figures: Figures) -> list[str]:
    if figures["name"] == "splat_codes":
        return [_components(figures)]
    if figures["name"] == "logmel":
        return [_log_mel(figures)]
    if figures["name"] == "clip_students":
        return [_students(figures)]
    if figures["name"] != "query":
        return []
    equal, equal_int8 = (100 * float(figures[f"agreement{c}"]) for c in ("", "_int8"))
    return [
        f"Prompts of random rows, the hardest case: bf16 names the same one as float32 for "
        f"{equal:.2f} % of rows; int8 for {equal_int8:.2f} %, "
        f"{float(figures['ratio_int8']):.3g} times faster than float32 and in "
        f"{100 * float(figures['bytes_int8']):.0f} % of the bytes of half precision."
    ]


def _components(figures: Figures) -> str:
    """What the codecs of a scene's rows cost, next to each other."""
    told = [
        f"{label} {float(figures[f'bytes_row{suffix}']):.0f} bytes a row, mean cosine error "
        f"{float(figures[f'cosine_error{suffix}']):.1e}, best prompt of "
        f"{100 * float(figures[f'agreement{suffix}']):.1f} % of rows kept"
        for label, suffix in (("components", ""), ("pq64", "_pq64"), ("int8", "_int8"))
    ]
    return f"Rows of a made-up scene, asked as they are stored: {'; '.join(told)}."


def _students(figures: Figures) -> str:
    """Size of the students of recordings, and the share of a core that each needs to keep up."""
    suffixes = [key.removeprefix("parameters") for key in figures if key.startswith("parameters")]
    told = [
        f"{suffix.removeprefix('_').replace('_', ' ') or 'audio micro'} "
        f"{float(figures[f'parameters{suffix}']) / 1e6:.2g} M weights, "
        f"{float(figures[f'window_ms{suffix}']):.2g} ms a window, "
        f"{100 * float(figures[f'real_time{suffix}']):.2g} % of a core"
        for suffix in suffixes
    ]
    worst = max(float(figures[f"error{suffix}"]) for suffix in suffixes)
    return (
        f"Students of recordings on one core, as ONNX: {'; '.join(told)}. Rows differ from torch's "
        f"by at most {worst:.0e}."
    )


def _log_mel(figures: Figures) -> str:
    """How far our log-mel maps are from the peer's."""
    errors = [float(value) for key, value in figures.items() if key.startswith("error")]
    return f"Log-mel maps differ from librosa's by {max(errors):.1e} at most."


def _growth(figures: Figures) -> list[str]:
    if "slope_length" in figures:
        slope = float(figures["slope_length"])
        return [
            f"Likeness to a queue: the slope of time over its length in log-log is {slope:.2f}."
        ]
    if any(key not in figures for key in _GROWTH):
        return []
    points, views, channels, span_mb, view_mb = (float(figures[key]) for key in _GROWTH)
    return [
        f"Growth of time, as the slope in log-log: {points:.2f} in points, {views:.2f} in views, "
        f"{channels:.2f} in channels. With the output in a file, extra memory varies by "
        f"{span_mb:.1f} MB from 50k to 800k points and grows by {view_mb:.2f} MB a view."
    ]


# ---- pieces ------------------------------------------------------------------------------------


def _missing(name: str) -> str:
    return f"Not measured yet: `{COMMANDS[name]}` makes this record."


def _source(record: JobRecord | FigureRecord) -> str:
    versions = ", ".join(f"{p} {record.versions[p]}" for p in ("torch",) if p in record.versions)
    seed = "" if record.seed is None else f", seed {record.seed}"
    return f"<sub>{record.date}, {record.machine}, {versions}{seed}: `{record.command}`</sub>"


def _bare(table: Table) -> str:
    """A table without its title."""
    return table.markdown().split("\n", 2)[2]


def _whole(table: Table | None) -> str:
    return "" if table is None else table.markdown()


def _folded(table: Table | None) -> str:
    if table is None or not table.rows:
        return ""
    title = f"<summary>{table.title}</summary>"
    return f"<details>{title}\n\n{_bare(table).strip()}\n\n</details>"


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.3g} ms"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the section, or compare it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report")
    parser.add_argument("--check", action="store_true", help="change nothing; 1 if it would")
    options = parser.parse_args(argv)
    try:
        before = README.read_text(encoding="utf-8")
        after = insert(before, section())
    except DataError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if options.check:
        return int(before != after)
    write_text(README, after)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
