"""One source in many annotation files, as large sets are kept: each is scanned for itself, and all make one index.

    annotations: GRIT20M/parts/grit_{000..199}.json

Several processes scan several files at once, and what a scan keeps is gone before that process takes another file: the
memory of a build follows the largest file, not the whole. Records stand in the order of the files.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from mmcore.data.index import COLUMN_TYPES, STARTS, Parser, Prepared, Report
from mmcore.data.spread import spread
from mmcore.errors import DataError, some

PARALLEL_FROM = 1 << 26
"""Bytes of all files below which the calling process scans them; starting others takes longer."""


@dataclass(frozen=True, slots=True)
class ManyFiles:
    """A parser of several files, of one parser for each.

    Attributes:
        parsers: at least one, all of one format and with the same options.
    """

    parsers: tuple[Parser, ...]

    @property
    def format(self) -> str:
        return self.parsers[0].format

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(path for parser in self.parsers for path in parser.files)

    @property
    def options(self) -> Mapping[str, Any]:
        return {**self.parsers[0].options, "files": [len(parser.files) for parser in self.parsers]}

    @property
    def columns(self) -> Mapping[str, Any]:
        """Those of the one parser."""
        return getattr(self.parsers[0], "columns", COLUMN_TYPES)

    def prepare(self, folder: Path, report: Report) -> Prepared:
        """Scan every file.

        Raises:
            DataError: a file is not what the parser reads, or the files know different categories.
        """
        jobs = [(parser, folder / f"file{number}") for number, parser in enumerate(self.parsers)]
        size = sum(path.stat().st_size for path in self.files if path.is_file())
        processes = min(os.cpu_count() or 1, 8) if size >= PARALLEL_FROM else 1
        prepared: list[Prepared] = []
        for one in spread(_scan, jobs, processes):
            prepared.append(one)
            report(f"scanned {len(prepared)} of {len(jobs)} files", len(prepared) / len(jobs))
        starts = list(accumulate((one.num_records for one in prepared), initial=0))
        (folder / "starts.json").write_text(json.dumps(starts))
        return Prepared(starts[-1], {**self._joined([one.meta for one in prepared]), STARTS: starts[:-1]})

    def records(self, folder: Path, start: int, stop: int) -> Iterator[tuple[bytes, Mapping[str, int]]]:
        """The records of whichever files they are in."""
        starts: list[int] = json.loads((folder / "starts.json").read_text())
        for number, (first, past) in enumerate(pairwise(starts)):
            begin, end = max(start, first), min(stop, past)
            if begin < end:
                yield from self.parsers[number].records(folder / f"file{number}", begin - first, end - first)

    def _joined(self, metas: list[dict[str, Any]]) -> dict[str, Any]:
        """Counts added up; everything else has to be the same in all files."""
        joined = dict(metas[0])
        for number, meta in enumerate(metas[1:], 1):
            for key in {**joined, **meta}:
                here, there = meta.get(key), joined.get(key)
                if isinstance(here, int) and isinstance(there, int):
                    joined[key] = here + there
                elif here != there:
                    raise self._differ(number, key, there, here)
        return joined

    def _differ(self, number: int, key: str, first: Any, other: Any) -> DataError:
        told = ""
        if isinstance(first, list) and isinstance(other, list):
            here, there = ([name for name in a if name not in b] for a, b in ((other, first), (first, other)))
            told = (
                "; ".join(
                    f"only {which} has {some(list(map(str, names)))}"
                    for which, names in (("this one", here), ("the first", there))
                    if names
                )
                or "the same ones in another order"
            )
        return DataError(
            f"the files of one source know different {key.replace('_', ' ')}" + (f": {told}" if told else ""),
            where=f"{self.parsers[number].files[0]} beside {self.parsers[0].files[0]}",
            do="make them sources of their own, or write the same categories into each",
        )


def _scan(job: tuple[Parser, Path]) -> Prepared:
    parser, folder = job
    folder.mkdir()
    return parser.prepare(folder, lambda doing, share: None)
