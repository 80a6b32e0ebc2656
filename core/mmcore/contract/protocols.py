"""What a plugin's `build_datasets` is given and what it returns: the contract between data and the rest."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mmcore.contract.values import Batch, ConversationSample, Draw, Prediction, Sample
from mmcore.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

    from mmcore.data.formats.format import Format
    from mmcore.data.index import Index


@dataclass(frozen=True, slots=True)
class DataContext:
    """Where this run's data lies and how it is to be read; the same on every process."""

    root: Path
    """Data root; every annotation and image path of the recipe is below it."""
    cache: Path
    """Where annotation indexes are kept."""
    variant: str
    seed: int
    only: tuple[str, ...] | None = None
    """The sources named by --sources; None means all of the recipe's."""
    formats: "tuple[Format, ...]" = ()
    """Annotation formats that plugins bring beside the core's."""


class Annotations(Protocol):
    """Records of annotation files behind a source, parsed once into an index on disk."""

    @property
    def index(self) -> "Index": ...

    def problems(self) -> Iterable[DataError]:
        """What the parser noted; each error names file, record and field."""
        ...

    def unusable(self, position: int) -> bool:
        """Whether record `position` cannot be used, which `problems` tells."""
        ...

    def left_out(self) -> Mapping[str, int]:
        """How many records and parts of them cannot be used as they are, by what is wrong; said before a run starts."""
        ...


@dataclass(frozen=True, slots=True)
class Shown:
    """A record for people: its picture as it is on disk, and what is true of it."""

    image: np.ndarray | None
    """(height, width, 3) uint8 RGB; None for text alone."""
    truth: Prediction | None = None
    """Its objects, without scores, in pixels of the image."""
    question: str = ""
    answer: str = ""
    frames: "tuple[Shown, ...]" = ()
    """Of a video: some of its frames, whose truths say which they are; `image` is the first of them."""


class DataSource:
    """Records of one annotation format, and the way from a record to a sample.

    Instances travel to worker processes, so they hold paths and small numbers; files are opened lazily.
    """

    name: str
    """Under which the recipe knows it."""
    fingerprint: str
    """Content hash of the annotations and of everything that decides which records there are."""

    def __len__(self) -> int:
        raise NotImplementedError

    def sample(self, draw: Draw) -> Sample | ConversationSample | None:
        """Read and transform record `draw.position`, with all randomness from `draw.seed`.

        Returns None when nothing is left of the record after the transform; the loader then takes a replacement that
        is a pure function of the draw.

        Raises:
            DataError: the record cannot be used; names file, record and field.
        """
        raise NotImplementedError

    def aspect_groups(self) -> np.ndarray | None:
        """(records,) uint8 group of each record that may share a batch (0 portrait or square, 1 landscape), or None."""

    def lengths(self) -> np.ndarray | None:
        """(records,) length of each record, negative without an image; None for no mixtures by length."""

    def annotations(self) -> Annotations | None:
        """The indexed records behind it, for `mmcore data check` and `mmcore data index`; None for none."""

    def shown(self, position: int) -> Shown | None:
        """Record `position` for the pictures of an evaluation; None has none drawn.

        Raises:
            DataError: the record cannot be used.
        """
        del position

    def problems(self) -> Iterable[DataError]:
        """What is wrong with its annotations, known without reading a picture."""
        found = self.annotations()
        return found.problems() if found is not None else ()


class Order(Protocol):
    """What is drawn: a pure function of seed, epoch and position, with no state to save (`mmcore.data.order`).

    Micro-batches are numbered over the whole run: step, accumulation turn, process.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """The sources that are drawn from."""
        ...

    @property
    def seed(self) -> int: ...

    def draws(self, m: int) -> tuple[Draw, ...]:
        """The samples of global micro-batch `m`, counted from 0."""
        ...

    def source(self, m: int) -> str:
        """The source of the first sample of global micro-batch `m`."""
        ...


class Evaluator:
    """One published protocol. Each process updates its own evaluator; the states are merged on the first."""

    category_ap: Mapping[str, Mapping[str, float]] = MappingProxyType({})
    """AP of each category by name, for each kind of overlap, where the protocol has it; filled by `summarise`."""

    @property
    def metric_names(self) -> Sequence[str]:
        """What `summarise` can give, `*` for what depends on the data; a recipe may name these and no others."""
        raise NotImplementedError

    def update(self, batch: Batch, predictions: Sequence[Prediction]) -> None:
        """Take in the predictions of one batch, in the order of its images."""
        raise NotImplementedError

    def state(self) -> list[Any]:
        """What was taken in, as JSON-serialisable items, to be sent to the first process."""
        raise NotImplementedError

    def summarise(self, items: Sequence[Any]) -> dict[str, float]:
        """Metrics from the items of all processes; an image that several processes saw counts once."""
        raise NotImplementedError

    def results(self, items: Sequence[Any]) -> Any:
        """What `predictions.json` holds; None for no such file."""
        del items

    def write(self, items: Sequence[Any], folder: Path) -> None:
        """Write anything else beside it, such as a picture or a file for another tool."""


Metric = Callable[[Sequence[Any]], float]
"""A figure made of an evaluator's items, those of all processes; an image that several of them saw comes once."""


Collate = Callable[[Sequence[Any], int], Batch]
"""Samples of one source, as it makes them, and a seed for what is drawn per batch -> batch; a function, or a
`Collator`."""


class Collator:
    """A collator that knows how its batches look, for `mmcore data show` and for a step that went wrong."""

    def __call__(self, samples: Sequence[Any], seed: int) -> Batch:
        """One batch of samples of one source; `seed` decides what is drawn per batch."""
        raise NotImplementedError

    def draw(self, batch: Any) -> "Sequence[Image] | None":
        """One picture per sample as the network gets it; None has the core draw boxes and masks, or tokens.

        Args:
            batch: on the CPU.
        """
        del batch

    def text_of(self, word: int) -> str:
        """What a vocabulary id says, for the core's pictures of tokens."""
        return str(word)


@dataclass(frozen=True, slots=True)
class Datasets:
    """The answer to `build_datasets` for one split."""

    sources: Mapping[str, DataSource]
    collate: Mapping[str, Collate]
    """By source name."""
    evaluators: Mapping[str, Callable[[], Evaluator]] = field(default_factory=dict)
    """By source name; only for validation splits."""
    wordings: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Bank -> the questions or answers drawn from where annotations hold none, those of `data.templates` included
    (`mmcore.language.templates`); empty where no source of the run has any."""
