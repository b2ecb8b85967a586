"""Edges: the operations a graph can name, one set for each verb (`encode`, `lift`, `distill`).

An op is a frozen, keyword-only dataclass. Its fields are the keys of the YAML file, its ports are
the type hints of its `__call__`; it only unpacks values and calls `lifting`, `detectors` or a loss.

    @dataclass(frozen=True, kw_only=True)
    class Kl:
        \"\"\"What users read about this op.\"\"\"

        op: Literal["kl"] = "kl"
        weight: float = 1.0

        def __call__(self, teacher: Points, student: Points) -> Tensor: ...

What the graph looks for on an op, beside `__call__`:

- `teacher() -> Teacher`: a frozen network. The op has a field `frozen: bool = True`, and its call
  takes the loaded teacher first, in a parameter named `teacher: Teacher` that is not a port.
- `build(...) -> nn.Module`: an op with weights. Its call takes the built module first, in a
  parameter named `net`, which is not a port either. `build` may ask, by keyword, for `channels`
  (the width of the target node), `space` (`unit`, `simplex`, `raw` or None: what the teachers of
  this student give), `num_rows` (points or splats of a run's one scene, None where there are
  several), `source_channels` (the widths of the edge's sources, in order) and, in `distill`,
  `teacher_channels` and `student`, the student's module. It may return None when the fields say
  that there is nothing to learn.
- `channels -> int | None` and `space -> str | None` (class variable, property or field): what the
  op gives, known without loading anything; None when only the weights can tell.
- `text_side() -> Teacher`: of a lift whose rows are no longer the teacher's, whoever understands
  questions about them; `row_names`, what each column of its rows stands for.
- `gives_rows = False` (class variable) where the points that an op gives carry no features.
- `gives -> str` where the settings decide which of the kinds of the return hint it is.
- `teacher_spaces -> tuple[str, ...]` on a `distill` op: the spaces of teacher rows it takes.
- `one_scene = True` (class variable) on a student whose weights belong to one scene.
- `draws = True` on a student that shapes splats itself, and on a `distill` op that needs one;
  `sees_splats = True` on a student that is told of all numbers of splats, not of centres alone.
- `any_width = True` on a `distill` op that compares nothing across widths, and needs no projection.

A source of an edge goes to the first free port that takes its kind, so `maps, depth, cloud` and
`cloud, maps, depth` mean the same; `| None` makes a port optional, `*args` takes all that is left.

Values are imported under `TYPE_CHECKING` and torch inside functions: hints are read as text, so a
file is checked without loading torch.

Third parties add ops through entry points of the group `xmodal.ops`, named `VERB.NAME`:

    [project.entry-points."xmodal.ops"]
    "encode.my_teacher" = "my_package.ops:MyTeacher"
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import (
    Annotated,
    Any,
    Literal,
    Protocol,
    Union,
    get_args,
    get_type_hints,
    runtime_checkable,
)

from pydantic import Field

from xmodal.errors import BackendError

Verb = Literal["encode", "lift", "distill"]
VERBS: tuple[Verb, ...] = get_args(Verb)
GROUP = "xmodal.ops"

# Our own code only, so that a name in a file can never become an import path.
_BUILT_IN: Mapping[Verb, Mapping[str, str]] = MappingProxyType(
    {
        "encode": {
            "embedded": "xmodal.edges.encode.embedded:Embedded",
            "imagenet_dense": "xmodal.edges.encode.imagenet_dense:ImagenetDense",
            "openclip": "xmodal.edges.encode.openclip:OpenClip",
            "sam": "xmodal.edges.encode.sam:Sam",
            "dino": "xmodal.edges.encode.dino:Dino",
            "precomputed": "xmodal.edges.encode.precomputed:Precomputed",
            "yamnet": "xmodal.edges.encode.yamnet:Yamnet",
            "label_text": "xmodal.edges.encode.label_text:LabelText",
            "frames_embedding": "xmodal.edges.encode.frames_embedding:FramesEmbedding",
            "sparse_unet": "xmodal.edges.encode.sparse_unet:SparseUnet",
            "point_transformer": "xmodal.edges.encode.point_transformer:PointTransformer",
            "point_mlp": "xmodal.edges.encode.point_mlp:PointMlp",
            "ema": "xmodal.edges.encode.ema:Ema",
            "splat_field": "xmodal.edges.encode.splat_field:SplatFieldOp",
            "gaussian_head": "xmodal.edges.encode.gaussian_head:GaussianHeadOp",
            "splat_scene": "xmodal.edges.encode.splat_scene:SplatSceneOp",
            "audio_cnn": "xmodal.edges.encode.audio_cnn:AudioCnn",
            "imu_tcn": "xmodal.edges.encode.imu_tcn:ImuTcn",
            "skeleton_net": "xmodal.edges.encode.skeleton_net:SkeletonNetOp",
            "audio_transformer": "xmodal.edges.encode.audio_transformer:AudioTransformer",
            "imu_transformer": "xmodal.edges.encode.imu_transformer:ImuTransformerOp",
            "grid_decoder": "xmodal.edges.encode.grid_decoder:GridDecoderOp",
            "panorama_net": "xmodal.edges.encode.panorama_net:PanoramaNet",
            "fusion": "xmodal.edges.encode.fusion:FusionOp",
        },
        "lift": {
            "points": "xmodal.edges.lift.points:LiftPoints",
            "voxels": "xmodal.edges.lift.voxels:LiftVoxels",
            "superpoints": "xmodal.edges.lift.superpoints:LiftSuperpoints",
            "agreement": "xmodal.edges.lift.agreement:Agreement",
            "mask_sets": "xmodal.edges.lift.mask_sets:MaskSets",
            "captions": "xmodal.edges.lift.captions:Captions",
            "instances": "xmodal.edges.lift.instances:Instances",
            "segment_crops": "xmodal.edges.lift.segment_crops:SegmentCrops",
            "one_hot": "xmodal.edges.lift.one_hot:OneHot",
            "cells": "xmodal.edges.lift.cells:MapCells",
            "fit_splats": "xmodal.edges.lift.fit_splats:FitSplats",
            "splats": "xmodal.edges.lift.splats:LiftSplats",
            "splat_sets": "xmodal.edges.lift.splat_sets:SplatSets",
            "splat_pixels": "xmodal.edges.lift.splat_pixels:SplatPixels",
            "frames": "xmodal.edges.lift.frames:LiftFrames",
        },
        "distill": {
            "cosine": "xmodal.edges.distill.cosine:Cosine",
            "mse": "xmodal.edges.distill.mse:Mse",
            "kl": "xmodal.edges.distill.kl:Kl",
            "smooth_l1": "xmodal.edges.distill.smooth_l1:SmoothL1",
            "info_nce": "xmodal.edges.distill.info_nce:InfoNce",
            "queue_similarity": "xmodal.edges.distill.queue_similarity:QueueSimilarity",
            "cwcl": "xmodal.edges.distill.cwcl:Cwcl",
            "correlation": "xmodal.edges.distill.correlation:Correlation",
            "spatial_matching": "xmodal.edges.distill.spatial_matching:SpatialMatching",
            "shared_dimensions": "xmodal.edges.distill.shared_dimensions:SharedDimensions",
            "routed": "xmodal.edges.distill.routed:Routed",
            "ensemble": "xmodal.edges.distill.ensemble:Ensemble",
            "relational": "xmodal.edges.distill.relational:Relational",
            "segment_contrast": "xmodal.edges.distill.segment_contrast:SegmentContrast",
            "set_cosine": "xmodal.edges.distill.set_cosine:SetCosine",
            "set_kl": "xmodal.edges.distill.set_kl:SetKl",
            "set_contrast": "xmodal.edges.distill.set_contrast:SetContrast",
            "mask_contrast": "xmodal.edges.distill.mask_contrast:MaskContrast",
            "part_distill": "xmodal.edges.distill.part_distill:PartDistill",
            "wasserstein": "xmodal.edges.distill.wasserstein:Wasserstein",
            "direction_norm": "xmodal.edges.distill.direction_norm:DirectionNorm",
            "decoupled": "xmodal.edges.distill.decoupled:Decoupled",
            "render": "xmodal.edges.distill.render:Render",
        },
    }
)


@runtime_checkable
class Op(Protocol):
    """One operation with its settings; see the module's text for what else it may define."""

    @property
    def op(self) -> str:
        """The name that a YAML file gives it."""
        ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the edge on values, ports in the order of the signature."""
        ...


@functools.cache
def _plugins(verb: Verb) -> Mapping[str, EntryPoint]:
    """Entry points of one verb by op name; a clash of names is refused, not resolved."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        prefix, _, name = point.name.partition(".")
        if prefix not in VERBS or not name.isidentifier():
            raise BackendError(
                f"entry point {point.name!r} of {_package(point)}",
                wanted="a name of the form VERB.NAME, VERB one of encode, lift, distill",
                got=repr(point.name),
                fix="correct the entry point in that package, or uninstall it",
            )
        if prefix != verb:
            continue
        other = _package(found[name]) if name in found else "xmodal itself"
        if name in found and found[name].value == point.value:
            continue  # the same distribution seen twice on sys.path
        if name in found or name in _BUILT_IN[verb]:
            raise BackendError(
                f"entry point {point.name!r} of {_package(point)}",
                wanted=f"an op name that no other package uses for {verb}",
                got=f"`{name}`, which {other} already provides",
                fix="uninstall one of the two packages",
            )
        found[name] = point
    return MappingProxyType(found)


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.module


def op_names(verb: Verb) -> tuple[str, ...]:
    """Names a file may use after `op:` for this verb, built-in first; imports no op."""
    return (*_BUILT_IN[verb], *sorted(_plugins(verb)))


@functools.cache
def op_class(verb: Verb, name: str) -> type[Any]:
    """The dataclass behind an op's name, imported on first use.

    Raises:
        KeyError: If there is no such op; `op_names` lists them.
        BackendError: If a third-party op cannot be imported or is not an op.
    """
    if name in _BUILT_IN[verb]:
        module, _, attribute = _BUILT_IN[verb][name].partition(":")
        return getattr(import_module(module), attribute)
    point = _plugins(verb)[name]
    try:
        loaded = point.load()
    except (ImportError, AttributeError) as error:
        raise BackendError(
            f"op `{name}` of {_package(point)}",
            wanted=f"an importable {point.value}",
            got=str(error),
            fix=f"reinstall {_package(point)} or drop `{name}` from the graph",
        ) from error
    _refuse_malformed(loaded, name, point)
    return loaded


def _refuse_malformed(loaded: Any, name: str, point: EntryPoint) -> None:
    problem = None
    if not isinstance(loaded, type) or not is_dataclass(loaded):
        problem = f"{loaded!r}, which is not a dataclass"
    elif not getattr(loaded, "__dataclass_params__").frozen:  # noqa: B009 - untyped private name
        problem = f"{loaded.__qualname__}, which is not frozen"
    elif not any("__call__" in vars(base) for base in loaded.__mro__):
        problem = f"{loaded.__qualname__} without `__call__`"
    elif all(f.name != "op" for f in fields(loaded)) or get_args(
        get_type_hints(loaded).get("op")
    ) != (name,):
        problem = f'{loaded.__qualname__} without `op: Literal["{name}"] = "{name}"`'
    if problem is not None:
        raise BackendError(
            f"op `{name}` of {_package(point)}",
            wanted="a frozen dataclass with a field `op` and a `__call__` whose hints are values",
            got=problem,
            fix=f"correct {point.value}, or uninstall {_package(point)}",
        )


@functools.cache
def op_union(verb: Verb) -> Any:
    """The tagged union of all ops of a verb (tag `op`), for pydantic; imports every op."""
    classes = tuple(op_class(verb, name) for name in op_names(verb))
    return Annotated[Union[classes], Field(discriminator="op")]  # noqa: UP007 - built at run time
