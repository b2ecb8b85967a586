"""The parts of a run file, beside its graph."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, cast

from annotated_types import Ge, Gt, Le, Len, Lt

from xmodal.graph.ports import Kind

Format = Literal["posed_rgbd", "utd_mhad", "sound_folders", "clips", "daps"]
LabelSet = Literal["scannet20", "scannet200", "s3dis"]
Task = Literal[
    "segmentation", "localisation", "classification", "probe", "zero_shot", "retrieval", "maps",
]  # fmt: skip
Split = Literal["train", "val", "test"]
Count = Annotated[int, Gt(0)]
Amount = Annotated[float, Ge(0)]
Share = Annotated[float, Ge(0), Le(1)]
Names = tuple[str, ...]
StreamKind = Literal["audio", "imu", "skeleton", "video", "grids"]

# What each kind of dataset brings; a graph may use less.
SENSORS_OF: Mapping[Format, tuple[Kind, ...]] = MappingProxyType(
    {
        "posed_rgbd": ("image", "depth", "points", "labels"),
        "utd_mhad": ("imu", "skeleton", "labels"),
        "sound_folders": ("audio", "labels"),
        "clips": ("audio", "imu", "skeleton", "video", "labels", "text"),
        "daps": ("audio", "video", "grids"),
    }
)
# Formats whose samples are recordings: streams and a class instead of points.
RECORDINGS: tuple[Format, ...] = ("utd_mhad", "sound_folders", "clips", "daps")
# Tasks that recordings can be measured on.
RECORDING_TASKS: tuple[Task, ...] = ("classification", "probe", "zero_shot", "retrieval", "maps")
# Settings that say something of points and pictures only, or of recordings only.
OF_SCENES = (
    "crop_points", "crops", "loss_rows", "loss_sets", "min_set_points", "balance_scenes", "augment",
)  # fmt: skip
OF_RECORDINGS = ("batch", "balance_recordings", "drop_teachers")
# Settings of data that say something of the format `clips` only.
OF_FILMS = ("film_every_s", "cut_s", "hop_s", "align_within_s")


@dataclass(frozen=True, kw_only=True)
class Data:
    """What to lift and train on.

    Attributes:
        scene: A folder or a pattern such as `data/world/*`, or several; relative to where the
            command is run. A pattern stands for the folders that it matches, in order of name.
        format: How the folders are laid out.
        voxel_m: Spacing of points fused from depth, metres, where a scene has no cloud of its own.
        max_frames: Use this many frames of a scene, evenly spaced; all if null.
        max_side_px: Make pictures smaller by averaging, so that no side is longer; null leaves them
            as they are. Depth stays as it is.
        label_set: Classes of the point labels; those of each scene if null.
        film_every_s: Of films in recordings, frames at least so far apart are kept, seconds; 0 for
            all.
        cut_s: Cut recordings of the format `clips` into pieces as long as this, seconds, named
            after the film and where in it they begin: `walk@2.0`. Null leaves them whole.
        hop_s: Time from the beginning of one piece to that of the next; `cut_s` if null.
        align_within_s: Look for lags up to this, seconds, between films and the files beside them
            (inertial readings, sound), and put these on the film's clock; 0 believes time stamps.
        lacking: Streams that a share of the recordings to train on is to lack: `{imu: 0.3}`. What
            recordings to test on lack is said to `eval`.
        noisy: Noise in recordings to train on, by stream, in units of the stream's own spread.
    """

    scene: Annotated[str, Len(1)] | Annotated[tuple[Annotated[str, Len(1)], ...], Len(1)]
    format: Format = "posed_rgbd"
    voxel_m: Annotated[float, Gt(0), Le(10)] = 0.02
    max_frames: Count | None = None
    max_side_px: Count | None = None
    label_set: LabelSet | None = None
    film_every_s: Amount = 0.2
    cut_s: Annotated[float, Gt(0)] | None = None
    hop_s: Annotated[float, Gt(0)] | None = None
    align_within_s: Amount = 0.0
    lacking: Mapping[StreamKind, Share] = field(default_factory=dict[StreamKind, float])
    noisy: Mapping[StreamKind, Amount] = field(default_factory=dict[StreamKind, float])

    @property
    def scenes(self) -> tuple[Path, ...]:
        """The folders, one or several; a pattern that matches nothing gives none."""
        given = (self.scene,) if isinstance(self.scene, str) else self.scene
        return tuple(folder for text in given for folder in folders_of(text))

    @property
    def has_recordings(self) -> bool:
        """Whether its samples are recordings."""
        return self.format in RECORDINGS

    @property
    def is_many(self) -> bool:
        """Whether the run is over a list of scenes (of any length), not over one folder."""
        return not isinstance(self.scene, str) or glob.has_magic(self.scene)


def folders_of(text: str) -> list[Path]:
    """The folders that a path or a pattern stands for, in order of name."""
    if not glob.has_magic(text):
        return [Path(text)]
    path = Path(text)
    found = Path(path.anchor).glob(str(path.relative_to(path.anchor)))
    return sorted(folder for folder in found if folder.is_dir())


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Which scenes serve for what, by names or patterns of folders; those not named train.

    Over recordings these are names of recordings.

    Attributes:
        val: Held back while training.
        test: Held back while training.
        shared_groups: Allow recordings of one group (subject, fold) in two splits.
    """

    val: Names = ()
    test: Names = ()
    shared_groups: bool = False

    def of(self, name: str) -> Split:
        """The split of a scene, by the name of its folder."""
        for split, patterns in (("val", self.val), ("test", self.test)):
            if any(fnmatchcase(name, pattern) for pattern in patterns):
                return cast("Split", split)
        return "train"


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What training varies from crop to crop; see `xmodal.train.crops.Augment`."""

    shift: bool = True
    rotate_rad: Amount = 0.0
    tilt_rad: Amount = 0.0
    flip: Share = 0.0
    scale: Annotated[float, Ge(0), Lt(1)] = 0.0
    jitter_m: Amount = 0.0
    elastic_m: Amount = 0.0
    elastic_grain_m: Annotated[float, Gt(0)] = 0.4
    input_jitter: Amount = 0.0
    drop_colour: Share = 0.0
    drop_normals: Share = 0.0
    up: Literal["x", "y", "z", "-x", "-y", "-z"] = "z"


@dataclass(frozen=True, kw_only=True)
class Optimiser:
    """How to train: AdamW with a linear warm-up; see `xmodal.train.options.TrainOptions`.

    Attributes:
        steps: Number of updates; those of `stages` where a run has them.
        crop_points: Points of all crops of a step together; bounds its memory and time.
        crops: Places of the scene that a step sees.
        loss_rows: Points of the crops that are compared with the teacher.
        loss_sets: Sets of points of each teacher that a step draws to compare; all if null.
        min_set_points: Sets of points with fewer than this among the compared ones are left out.
        batch: Recordings that a step sees, in runs over those.
        balance_recordings: How often a recording is seen: all alike, or so that every class, or
            every group, is seen as often as the others.
        drop_teachers: Chance that a teacher of a recording is hidden from a student in a step; one
            always stays.
        accumulate: Pieces of `crop_points` points, each of a scene of its own, whose gradients are
            averaged for one update.
        balance_scenes: How often a scene is seen: by its observed points, its occupied cells, or
            all alike.
        balance: How the losses of several edges are weighed: as they come times their weights, by
            equal norms of their gradients, or by learnt uncertainty; `harmonise` takes from each
            gradient what works against another, `ogm` holds back students that are ahead, and
            `agm` streams of a fusion that are farther ahead than usual.
        lr: Peak learning rate.
        schedule: How it falls: half a cosine or a line down to zero, or not at all.
        warmup_steps: Updates of the warm-up; all of them where there are fewer.
        weight_decay: Of matrices and kernels.
        grad_clip: Largest norm of all gradients together.
        amp: Networks in bfloat16: `auto` on devices made for it, `bf16` everywhere, or `off`.
        ema_decay: Keep a moving average of the students' weights and use it afterwards.
        augment: What is varied from crop to crop.
        on_non_finite: What a loss or gradient that is not finite does.
        max_skips: Updates of a run that may be skipped before it stops.
        on_save_error: What a checkpoint that cannot be written does.
        log_every: Steps between records in the log.
        checkpoint_every: Steps between checkpoints; there is always one at the end.
        keep_checkpoints: How many of the newest checkpoints stay.
        threads: Threads of one operation on the CPU; 0 for torch's own setting.
    """

    steps: Count = 800
    crop_points: Count = 16384
    crops: Count = 4
    loss_rows: Count = 4096
    loss_sets: Count | None = None
    min_set_points: Count = 3
    batch: Count = 64
    balance_recordings: Literal["none", "class", "group"] = "none"
    drop_teachers: Annotated[float, Ge(0), Lt(1)] = 0.0
    accumulate: Count = 1
    balance_scenes: Literal["points", "voxels", "equal"] = "voxels"
    balance: Literal["none", "grad_norm", "uncertainty", "harmonise", "ogm", "agm"] = "none"
    lr: Annotated[float, Gt(0)] = 1e-2
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: Annotated[int, Ge(0)] = 30
    weight_decay: Amount = 0.01
    grad_clip: Annotated[float, Gt(0)] = 1.0
    amp: Literal["auto", "off", "bf16"] = "auto"
    ema_decay: Annotated[float, Ge(0), Lt(1)] | None = None
    augment: Augmentation = field(default_factory=Augmentation)
    on_non_finite: Literal["stop", "skip"] = "stop"
    max_skips: Annotated[int, Ge(0)] = 10
    on_save_error: Literal["stop", "continue"] = "stop"
    log_every: Count = 10
    checkpoint_every: Count = 200
    keep_checkpoints: Count = 2
    threads: Annotated[int, Ge(0)] = 1


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of training with its own aim.

    Attributes:
        name: Short name, for the log.
        steps: Number of updates.
        train: Students, by node, and learned losses, by arrow, that change; all if empty.
        edges: Distillation edges, by arrow, that count; all if empty.
        lr: Peak learning rate; the optimiser's if null.
        inherit: Students that begin the stage with the weights of another one, `heir: student`.
    """

    name: Annotated[str, Len(1)]
    steps: Count
    train: Names = ()
    edges: Names = ()
    lr: Annotated[float, Gt(0)] | None = None
    inherit: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, kw_only=True)
class StoreOptions:
    """How features are kept.

    Attributes:
        codec: `fp16`; `bf16`: as large, quicker to ask; `int8`: half of it; `pq64`: 64 bytes a
            point; `components`: 28; `segments`: a row per super-point. What it costs in cosine is
            measured when it is written.
    """

    codec: Literal["fp16", "bf16", "int8", "pq64", "components", "segments"] = "fp16"


@dataclass(frozen=True, kw_only=True)
class Query:
    """How answers are cut into objects.

    Attributes:
        threshold: Points count as found from this share of the query's highest relevancy.
    """

    threshold: Annotated[float, Gt(0), Le(1)] = 0.5


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What `eval` measures.

    Attributes:
        tasks: Tasks; whatever the scene has labels for if empty.
        names: Objects to tell apart; those of the scene if empty.
        other: Texts that stand for everything else.
    """

    tasks: tuple[Task, ...] = ()
    names: Names = ()
    other: Names = ()
