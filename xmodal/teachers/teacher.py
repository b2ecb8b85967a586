"""What a teacher is, and the scoring functions that teachers share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from xmodal.errors import UsageError
from xmodal.values import FeatureMap, Image, Masks

Space = Literal["unit", "simplex", "raw"]


@runtime_checkable
class Teacher(Protocol):
    """A frozen 2D network, in eval mode, without gradients, outside every checkpoint."""

    @property
    def name(self) -> str:
        """Short name for messages, manifests and figures."""
        ...

    @property
    def channels(self) -> int:
        """Width of a row."""
        ...

    @property
    def space(self) -> Space:
        """`unit` rows have length 1, `simplex` rows are probabilities, `raw` rows are neither."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the weights and every setting that changes the output."""
        ...

    @property
    def licence(self) -> str:
        """Licence of the weights, or a statement that it is not known."""
        ...

    def encode(self, image: Image) -> FeatureMap | Masks:
        """Features of one view, by patch or by mask; never painted dense."""
        ...

    def encode_text(self, text: list[str]) -> Float[Tensor, "T C"]:
        """One row per text; a text may join synonyms with `|`.

        Raises:
            UsageError: If the teacher has no text side, or a text is empty.
        """
        ...

    def encode_image(self, image: Image) -> Float[Tensor, " C"]:
        """One row for a whole image or crop.

        Raises:
            UsageError: If the teacher cannot describe a whole image.
        """
        ...

    def relevancy(
        self,
        rows: Float[Tensor, "N C"],
        text: list[str],
        negatives: list[str],
    ) -> Float[Tensor, "N T"]:
        """Score rows against texts, in [0, 1]; the one function that query and eval use."""
        ...


@runtime_checkable
class ProductScorer(Protocol):
    """A teacher whose relevancy depends on dot products of rows with vectors of texts alone.

    A store then multiplies its rows as they are coded, and nothing is decoded to ask a question.
    """

    @property
    def unit_rows(self) -> bool:
        """Whether rows are brought to length 1 before they are multiplied."""
        ...

    def encode_text(self, text: list[str]) -> Float[Tensor, "T C"]:
        """As `Teacher.encode_text`."""
        ...

    def rivals(self, negatives: list[str]) -> list[str]:
        """What texts compete with: the negatives, or the teacher's own when there are none."""
        ...

    def score_products(
        self, products: Float[Tensor, "N T"], rivals: Float[Tensor, "N K"]
    ) -> Float[Tensor, "N T"]:
        """Relevancy in [0, 1] from products of rows with texts and with rivals; K may be 0."""
        ...


def relevancy_by_products(
    teacher: ProductScorer, rows: Float[Tensor, "N C"], text: list[str], negatives: list[str]
) -> Float[Tensor, "N T"]:
    """`Teacher.relevancy` of a teacher that scores by products."""
    rows = torch.nn.functional.normalize(rows, dim=1) if teacher.unit_rows else rows
    products = rows @ teacher.encode_text(text).T
    against = teacher.rivals(negatives)
    found = rows @ teacher.encode_text(against).T if against else rows.new_zeros(len(rows), 0)
    return teacher.score_products(products, found)


@runtime_checkable
class FrameFiles(Protocol):
    """A teacher that reads its output from one file a frame; it is not stored a second time."""

    def check_frames(self, names: Sequence[str]) -> None:
        """Make sure that every frame has its file.

        Raises:
            DataError: Naming all frames without one.
        """
        ...


def prompts_of(text: str) -> list[str]:
    """The synonyms of one query: `"mug | coffee cup"` gives two.

    Raises:
        UsageError: If there is nothing to ask.
    """
    # Control characters would end up as unknown tokens or break a terminal; they carry no meaning.
    printable = "".join(c if c.isprintable() else " " for c in text)
    prompts = [" ".join(part.split()) for part in printable.split("|")]
    prompts = [prompt for prompt in prompts if prompt]
    if not prompts:
        raise UsageError(
            "query text",
            wanted="words to look for, for example 'coffee mug', synonyms separated by '|'",
            got=repr(text[:40]),
            fix="write what you are looking for",
        )
    return prompts


def check_texts(text: Sequence[str]) -> list[list[str]]:
    """The prompts of each text.

    Raises:
        UsageError: If there is no text, or one of them is empty.
    """
    if isinstance(text, str):
        raise TypeError("text must be a list of strings, got one string")
    return [prompts_of(one) for one in text]


def pairwise_softmax(
    positive: Float[Tensor, "N T"], negative: Float[Tensor, "N K"], scale: float
) -> Float[Tensor, "N T"]:
    """Probability that a row is the text rather than the most similar negative.

    Args:
        positive: Cosine similarity of rows with texts.
        negative: Cosine similarity of rows with at least one negative.
        scale: The model's logit scale (inverse temperature).

    Source:
        Kerr et al., LERF: Language Embedded Radiance Fields, ICCV 2023, section 3.4.
    """
    if negative.shape[1] == 0:
        raise ValueError("a pairwise soft-max needs at least one negative")
    strongest = negative.amax(dim=1, keepdim=True)
    return torch.sigmoid(scale * (positive - strongest))


def no_text(name: str) -> UsageError:
    """The error of a teacher without a text side."""
    return UsageError(
        f"teacher {name}",
        wanted="a teacher that understands text",
        got=f"{name} has image features only",
        fix="query it with --click FRAME,U,V or --image F, or use the teacher embedded or openclip",
    )
