"""Everything that is wrong with a data source, found before a run finds it: `mmcore data check`.

First the annotations, as the parser noted them (file, record, field); then every sample is read and transformed as in
training, in worker processes. Nothing is repaired.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from torch.utils.data import DataLoader, Dataset

from mmcore.base.hashing import mix, name_key
from mmcore.contract.protocols import DataSource
from mmcore.contract.values import Draw
from mmcore.data.loader import init_worker, results_of
from mmcore.errors import DataError

CHUNK = 32
"""Samples that a worker checks per answer."""


class Problem(NamedTuple):
    """One thing that is wrong."""

    source: str
    what: str
    where: str
    """File, record and field."""
    do: str | None = None

    @classmethod
    def of(cls, source: str, error: DataError) -> "Problem":
        """The problem that an error describes."""
        return cls(source, error.what, error.where or "", error.do)


def check_annotations(name: str, source: DataSource) -> Iterator[Problem]:
    """What the parser noted about the records of a source; nothing for sources without an index."""
    yield from (Problem.of(name, error) for error in source.problems())


def check_samples(
    name: str,
    source: DataSource,
    *,
    limit: int | None = None,
    workers: int = 0,
    report: Callable[[int, int], None] | None = None,
) -> Iterator[Problem]:
    """What goes wrong when samples are read and transformed.

    Args:
        name: of the source.
        source: what to read.
        limit: only so many records, spread evenly.
        workers: processes that read.
        report: told how many records of how many were read.
    """
    count = len(source) if limit is None else min(limit, len(source))
    positions = [number * len(source) // count for number in range(count)] if count else []
    chunks = [positions[start : start + CHUNK] for start in range(0, count, CHUNK)]
    loader = DataLoader(
        _Checked(name, source, chunks),
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=init_worker,
    )
    done = 0
    with results_of(loader) as results:
        for chunk, found in zip(chunks, results):
            yield from found
            done += len(chunk)
            if report:
                report(done, count)


class _Checked(Dataset[list[Problem]]):
    """Chunks of positions to what is wrong with them."""

    def __init__(self, name: str, source: DataSource, chunks: list[list[int]]) -> None:
        self._name, self._source, self._chunks = name, source, chunks

    def __len__(self) -> int:
        return len(self._chunks)

    def __getitem__(self, number: int) -> list[Problem]:
        return [problem for position in self._chunks[number] if (problem := self._check(position))]

    def _check(self, position: int) -> Problem | None:
        annotations = self._source.annotations()
        if annotations is not None and annotations.unusable(position):
            return None  # told with the annotations
        try:
            self._source.sample(Draw(self._name, position, mix(name_key(self._name), position)))
        except DataError as error:
            return Problem.of(self._name, error)
        except Exception as error:  # a plugin's code may raise anything, and the other records are still of interest
            return Problem(self._name, f"{type(error).__name__}: {error}", f"source {self._name}, record {position}")
        return None


def _as_it_is(value: list[Problem]) -> list[Problem]:
    return value
