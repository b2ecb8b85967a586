"""What each codec of the feature store costs on real lifted features, and how fast it reads."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tables.jobs import Job, run_jobs
from benchmarks.tables.kitchen import VOXEL_M, lift_kitchen
from benchmarks.tables.record import ResultRecord, record, table
from benchmarks.tables.scenes import (
    DENSE_PLAIN,
    LabelledScene,
    ensure_worlds,
    names_of,
    run_folder,
    scene_names,
)
from benchmarks.tables.scoring import Asker, Measured, classes, stacked
from benchmarks.tables.world import lift_jobs
from lifting.superpoints import superpoints
from xmodal.evaluate import confusion
from xmodal.ply import read_points
from xmodal.runs.frozen import LIFTED
from xmodal.store import Features, Run

CODECS = ("fp16", "bf16", "int8", "pq64", "components", "segments")
_SCENES = scene_names("test")
_RANDOM_ROWS = 4096
_READ_S = 2.0


def make(work: Path, workers: int) -> ResultRecord:
    """Write the same features in every codec, ask them the same questions, read them."""
    ensure_worlds(work)
    run_jobs(lift_jobs(masks=False), work, workers)
    run_jobs([Job("kitchen/lift", lift_kitchen, {"voxel_m": VOXEL_M})], work, 1)
    # One after the other: reading is timed.
    jobs = [
        Job(f"store/{where}/{codec}", measure, {"codec": codec, "where": where})
        for where in ("world", "kitchen")
        for codec in CODECS
    ]
    results = run_jobs(jobs, work, 1)
    exact = Measured([stacked(results["store/world/fp16"]["exact"], "test")])
    tables = []
    for where, title in (
        ("world", "Generated world: 10 test scenes, 384 channels"),
        ("kitchen", "Red kitchen: one room, 1000 channels"),
    ):
        rows: list[list[str | float]] = []
        for codec in CODECS:
            found = results[f"store/{where}/{codec}"]
            row: list[str | float] = [
                codec,
                f"{found['bytes_a_point']:.1f}",
                f"{found['mean_error']:.1e}",
                f"{found['worst_error']:.1e}",
                f"{found['random_rows_a_s'] / 1e6:.2f} M",
                f"{found['mb_a_s'] / 1e3:.1f} GB",
            ]
            if where == "world":
                mine = Measured([stacked(found["stored"], "test")])
                row += [mine.text(), mine.minus(exact)]
            else:
                row.append(found["same_answer"])
            rows.append(row)
        columns = ["codec", "bytes a point", "mean 1 - cos", "largest", "random rows/s",
                   "in order, decoded, a second"]  # fmt: skip
        columns += ["mIoU (95 %)", "minus fp16"] if where == "world" else ["same best text"]
        tables.append(table(title, columns, rows))
    return record(
        "store",
        tables,
        results,
        sizes={
            "test scenes": len(_SCENES),
            "points of the world": results["store/world/fp16"]["points"],
            "points of the kitchen": results["store/kitchen/fp16"]["points"],
            "random rows at a time": _RANDOM_ROWS,
        },
        notes=[
            "Bytes are of the rows alone, codebooks and segments included. Reading is from files "
            "that the system has in memory, on one thread, checksums already verified. `segments` "
            "stores one row for each super-point of plainly lifted features, so its error is what "
            "averaging changes, not what rounding does."
        ],
    )


def measure(work: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Job: one codec on one data set; settings `codec` and `where`."""
    folders = (
        [run_folder(work, DENSE_PLAIN, name) for name in _SCENES]
        if settings["where"] == "world"
        else [work / "kitchen"]
    )
    scratch = work / "stores" / f"{settings['where']}-{settings['codec']}"
    found: list[dict[str, Any]] = []
    asker = Asker(DENSE_PLAIN.teacher if settings["where"] == "world" else {"op": "embedded"})
    for folder in folders:
        out = Run(scratch / folder.name)
        _copy(Run(folder), out, settings["codec"])
        stored = out.features(LIFTED)
        exact = Run(folder).features(LIFTED)
        entry = {
            "points": stored.info.num_points,
            "valid": stored.info.num_valid,
            "bytes": row_bytes(out.path / "features" / LIFTED, stored),
            # Lifted rows come out of a store of half precision, which noted its own rounding.
            "mean": stored.info.cosine_error_mean + exact.info.cosine_error_mean,
            "worst": stored.info.cosine_error + exact.info.cosine_error,
            "random": random_rows_a_second(stored),
            "mb": megabytes_a_second(stored),
        }
        found.append(entry | _answers(work, folder.name, settings["where"], asker, exact, stored))
        del stored
    shutil.rmtree(scratch)
    total = sum(one["points"] for one in found)
    result: dict[str, Any] = {
        "points": total,
        "bytes_a_point": sum(one["bytes"] for one in found) / total,
        "mean_error": float(
            np.average([f["mean"] for f in found], weights=[f["valid"] for f in found])
        ),
        "worst_error": max(one["worst"] for one in found),
        "random_rows_a_s": float(np.median([one["random"] for one in found])),
        "mb_a_s": float(np.median([one["mb"] for one in found])),
    }
    if settings["where"] == "world":
        for arm in ("exact", "stored"):
            result[arm] = {f.name: one[arm] for f, one in zip(folders, found, strict=True)}
    else:
        result["same_answer"] = found[0]["same"]
    return result


def _copy(run: Run, out: Run, codec: Any) -> None:
    """The lifted features of a run in another codec."""
    given = run.features(LIFTED)
    cloud = read_points(run.points).points
    segments = superpoints(cloud.xyz, cloud.normals, cloud.rgb).numpy().astype(np.int32)
    out.write_features(
        LIFTED,
        replace(given.info, cosine_error=0.0),
        codec=codec,
        rows=given.tensor().numpy(),
        valid=np.array(given.valid),
        weight=np.array(given.weight),
        num_views=np.array(given.num_views),
        disagreement=np.array(given.disagreement),
        segments=segments,
    )


def row_bytes(folder: Path, stored: Features) -> int:
    """Bytes of the files that rows are decoded from."""
    names = set(type(stored.rows).files) | (
        {"segments"} if stored.info.codec == "segments" else set()
    )
    return sum((folder / f"{name}.npy").stat().st_size for name in names)


def random_rows_a_second(stored: Features) -> float:
    """Rows a second, asked for by random numbers, decoded to float32."""
    random, count, spent = np.random.default_rng(0), 0, 0.0
    stored.take(np.arange(min(64, stored.info.num_points)))
    while spent < _READ_S:
        index = random.integers(0, stored.info.num_points, _RANDOM_ROWS)
        began = time.process_time()
        stored.take(index)
        spent += time.process_time() - began
        count += _RANDOM_ROWS
    return count / spent


def megabytes_a_second(stored: Features) -> float:
    """Decoded float32 megabytes a second, in order."""
    size, spent = 0, 0.0
    while spent < _READ_S:
        began = time.process_time()
        size += sum(rows.nbytes for _, rows in stored.blocks())
        spent += time.process_time() - began
    return size / 1e6 / spent


def _answers(
    work: Path, name: str, where: str, asker: Asker, exact: Features, stored: Features
) -> dict[str, Any]:
    """Confusion matrices on a world; on the kitchen, how often the best text stays the best."""
    if where == "kitchen":
        same = count = 0
        names = ("coffee mug", "chair", "magazine", "television", "keyboard")
        for (part, a), (_, b) in zip(exact.blocks(), stored.blocks(), strict=True):
            seen = np.asarray(exact.valid[part])
            first, second = (_best(asker, rows[seen], names) for rows in (a, b))
            same, count = same + int((first == second).sum()), count + int(seen.sum())
        return {"same": same / count}
    names = names_of("test")
    scene = LabelledScene(work, name)
    ids, answers = scene.ids(names), dict[str, Any]()
    for arm, features in (("exact", exact), ("stored", stored)):
        scores = asker.scores(features.tensor(), names)
        given = classes(scores, len(names), np.array(features.valid))
        answers[arm] = confusion(given, ids, len(names)).tolist()
    return answers


def _best(asker: Asker, rows: Any, names: tuple[str, ...]) -> Any:
    import torch

    return asker.scores(torch.from_numpy(rows), names).argmax(1)
