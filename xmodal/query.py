"""Open-vocabulary queries: text, click or image in; relevancy per point and objects out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from xmodal.atomic import atomic_path, write_json
from xmodal.errors import UsageError
from xmodal.render import heat, point_spacing
from xmodal.store import Features, StoredRows, load_array
from xmodal.teachers import Teacher
from xmodal.teachers.teacher import ProductScorer

Scores = npt.NDArray[np.float32]

MAX_TEXT_CHARS = 1000
# Two points belong to one object when they are closer than this many typical spacings: a cloud
# fused on a grid has neighbours at 1, 1.41 and 1.73 spacings.
_LINK_SPACINGS = 2.5
# Clusters below this size are single stray points rather than things.
_MIN_OBJECT_POINTS = 5
# Shorter rows have no direction that float32 could tell.
_SHORTEST = 1e-12


@dataclass(frozen=True, kw_only=True)
class FoundObject:
    """One connected cluster of relevant points.

    Attributes:
        score: Mean relevancy of the cluster's best tenth, in [0, 1].
        centre_m: Centre of the bounding box, world frame.
        size_m: Edge lengths of the axis-aligned bounding box.
        num_points: Points in the cluster.
        coverage: Mean number of views that saw its points.
    """

    score: float
    centre_m: tuple[float, float, float]
    size_m: tuple[float, float, float]
    num_points: int
    coverage: float


def check_text(text: str) -> str:
    """Return the text without surrounding space.

    Raises:
        UsageError: If it is empty, too long, or holds control characters.
    """
    cleaned = text.strip()
    problem = None
    if not cleaned:
        problem = "an empty text"
    elif len(cleaned) > MAX_TEXT_CHARS:
        problem = f"{len(cleaned)} characters"
    elif not cleaned.isprintable():
        problem = "control characters"
    if problem:
        raise UsageError(
            "query text",
            wanted=f"a printable text of 1 to {MAX_TEXT_CHARS} characters",
            got=problem,
            fix='name a thing, for example: xmodal query RUN "coffee mug"',
        )
    return cleaned


def row_scores(features: Features, score: Callable[[torch.Tensor], torch.Tensor]) -> Scores:
    """Apply a scoring function `[M, C] -> [M, Q]` to every observed row; NaN for the others."""
    scores: Scores | None = None
    for part, rows in features.blocks():
        seen = np.asarray(features.valid[part])
        found = score(torch.from_numpy(rows[seen])).cpu().numpy()
        if scores is None:
            scores = np.full((len(features.rows), found.shape[1]), np.nan, dtype=np.float32)
        scores[part][seen] = found
    return np.zeros((0, 0), dtype=np.float32) if scores is None else scores


def text_relevancy(
    features: Features, teacher: Teacher, texts: Sequence[str], negatives: Sequence[str] = ()
) -> Scores:
    """Relevancy `[N, T]` in [0, 1] of every stored row to every text, NaN where not observed."""
    asked, against = [check_text(t) for t in texts], [check_text(t) for t in negatives]
    if not isinstance(teacher, ProductScorer):
        return row_scores(features, lambda rows: teacher.relevancy(rows, asked, against))
    vectors = teacher.encode_text([*asked, *teacher.rivals(against)])
    products = row_products(features, vectors, unit_rows=teacher.unit_rows)
    scores = teacher.score_products(products[:, : len(asked)], products[:, len(asked) :])
    return _observed(features, scores)


def row_products(
    features: Features, vectors: Float[torch.Tensor, "Q C"], *, unit_rows: bool
) -> Float[torch.Tensor, "N Q"]:
    """Dot products of every stored row with vectors, in the arithmetic of the store's codec.

    Args:
        features: The store; only rows of `fp16` are decoded.
        vectors: What is asked.
        unit_rows: Bring rows to length 1 first; a row of length zero has products 0.
    """
    asked = vectors.detach().cpu().float().contiguous().numpy()
    products = torch.from_numpy(features.rows.products(asked))
    if unit_rows:
        # In place: the products are ours, and at a million points a copy is 80 MB.
        products /= torch.from_numpy(features.rows.norms()).clamp_min(_SHORTEST)[:, None]
    return products


def best_vectors(rows: StoredRows, vectors: Float[torch.Tensor, "Q C"]) -> Int[torch.Tensor, " N"]:
    """Which of several vectors every stored row has the largest dot product with."""
    # What all vectors share decides nothing, and without it coarse codecs tell them apart better.
    apart = vectors.float() - vectors.float().mean(dim=0)
    products = torch.from_numpy(rows.products(apart.contiguous().numpy()))
    # Along the first axis, which is how products lie; along the second it takes three times longer.
    return products.T.max(dim=0).indices


def vector_scores(
    rows: Float[torch.Tensor, "M C"], vectors: Float[torch.Tensor, "Q C"]
) -> Float[torch.Tensor, "M Q"]:
    """Cosine of rows to feature vectors, clipped to [0, 1]; a row of length zero scores 0."""
    unit = torch.nn.functional.normalize(rows.float(), dim=1)
    return (unit @ torch.nn.functional.normalize(vectors.float(), dim=1).T).clamp(0, 1)


def vector_relevancy(features: Features, vector: torch.Tensor) -> Scores:
    """Cosine `[N]` of every stored row to one feature vector, in [0, 1]; NaN if unseen."""
    unit = torch.nn.functional.normalize(vector[None].float(), dim=1)
    return _observed(features, row_products(features, unit, unit_rows=True).clamp_(0, 1))[:, 0]


def ensemble(parts: Sequence[Scores]) -> Scores:
    """Per point the scores of the source that is surest of one of the texts.

    Args:
        parts: Scores `[N, T]` (or `[N]` for one text) of each source, NaN where not observed.

    Returns:
        Scores of the same shape; of equally sure sources the first, NaN where none has a value.

    Source:
        Peng et al., OpenScene, CVPR 2023, section 3.3 (2D-3D ensemble).
    """
    known = [np.nan_to_num(scores, nan=-1.0).reshape(len(scores), -1) for scores in parts]
    choice = np.stack([scores.max(axis=1, initial=-1.0) for scores in known]).argmax(axis=0)
    return np.stack(parts)[choice, np.arange(len(choice))]


def find_objects(
    xyz: npt.NDArray[np.float32],
    scores: Scores,
    num_views: npt.NDArray[np.int32],
    *,
    threshold: float,
    top: int = 10,
) -> list[FoundObject]:
    """Connected clusters of points whose relevancy is at least `threshold` of the highest.

    Args:
        xyz: Points, metres.
        scores: Relevancy per point, NaN where not observed.
        num_views: Views that saw each point.
        threshold: The run's one threshold, as a share of this query's highest relevancy.
        top: Largest number of objects returned, best first.
    """
    if not np.isfinite(scores).any() or np.nanmax(scores) <= 0:
        return []
    chosen = np.flatnonzero(np.nan_to_num(scores, nan=-1.0) >= threshold * np.nanmax(scores))
    tree = KDTree(xyz[chosen])
    pairs = tree.query_pairs(_LINK_SPACINGS * point_spacing(xyz), output_type="ndarray")
    size = len(chosen)
    graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(size, size))
    labels = connected_components(graph, directed=False)[1]
    objects: list[FoundObject] = []
    for label in np.flatnonzero(np.bincount(labels) >= min(_MIN_OBJECT_POINTS, size)):
        members = chosen[labels == label]
        best = np.sort(scores[members])[-max(1, len(members) // 10) :]
        low, high = xyz[members].min(0), xyz[members].max(0)
        objects.append(
            FoundObject(
                score=round(float(best.mean()), 6),
                centre_m=_triple((low + high) / 2),
                size_m=_triple(high - low),
                num_points=len(members),
                coverage=round(float(num_views[members].mean()), 3),
            )
        )
    return sorted(objects, key=lambda found: -found.score)[:top]


def write_scores(path: Path, scores: Scores) -> None:
    """Write float32 `[N]` in the row order of `points.ply`, NaN where not observed."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, scores.astype(np.float32))


def write_objects(path: Path, text: str, source: str, objects: Sequence[FoundObject]) -> None:
    """Write the JSON answer of a query."""
    answer: dict[str, Any] = {"text": text, "frame": "world", "source": source}
    write_json(path, {**answer, "objects": [asdict(found) for found in objects]})


def score_colours(scores: Scores) -> npt.NDArray[np.uint8]:
    """Heat colours per point, grey where not observed."""
    return heat(scores[None])[0]


def describe(objects: Sequence[FoundObject], text: str, source: str) -> str:
    """The answer as a few lines for the terminal."""
    if not objects:
        return f"{text!r}: nothing observed is relevant (source: {source})"
    lines = [f"{text!r}: {len(objects)} place(s), source: {source}"]
    for found in objects:
        x, y, z = found.centre_m
        a, b, c = (100 * edge for edge in found.size_m)
        lines.append(
            f"  {found.score:.3f}  at ({x:+.2f}, {y:+.2f}, {z:+.2f}) m, "
            f"{a:.0f} x {b:.0f} x {c:.0f} cm, {found.num_points} points"
        )
    return "\n".join(lines)


def read_scores(path: Path, num_points: int) -> Scores:
    """Read another system's scores.

    Raises:
        UsageError: If the array does not fit the run's points.
    """
    array = load_array(path)
    if array.shape[:1] != (num_points,):
        raise UsageError(
            str(path),
            wanted=f"one row per point of points.ply ({num_points})",
            got=f"shape {array.shape}",
            fix="write the scores in the row order of points.ply",
        )
    return np.asarray(array)


def _observed(features: Features, scores: torch.Tensor) -> Scores:
    """Scores as an array, NaN where nothing was observed."""
    found = scores.numpy()
    found[~np.asarray(features.valid)] = np.nan
    return found


def _triple(values: npt.NDArray[np.float32]) -> tuple[float, float, float]:
    x, y, z = (round(float(v), 4) for v in values)
    return x, y, z
