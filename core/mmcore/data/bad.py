"""What happens to a sample that cannot be read: stop, replace it, or replace it and never try it again.

Whether a sample is bad depends on the sample alone, and what replaces it on its draw alone. So all ranks, a resumed
run and any number of workers agree without telling one another. Workers report what they met with each batch; the
main process counts, lists in `bad_samples.jsonl`, and stops the run when too many come in a row.

A sample of which the transform leaves nothing (a crop without the referred object) is replaced the same way, but is
not bad: it is counted as empty only.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from mmcore.base.hashing import mix
from mmcore.base.jsonfile import read_json_lines
from mmcore.contract.protocols import DataSource
from mmcore.contract.values import ConversationSample, Draw, Sample
from mmcore.errors import DataError

Policy = Literal["error", "skip", "quarantine"]

FILE_NAME = "bad_samples.jsonl"

_UNUSABLE = (UnicodeError, OverflowError, RecursionError)
"""What Python raises for text that is no text (half a surrogate pair), numbers of hundreds of digits, and values nested
thousands deep: always the record's own fault."""


class Incident(NamedTuple):
    """A draw that gave no sample."""

    source: str
    position: int
    what: str
    """The error's first line; "" when nothing was left after the transform."""
    where: str


def _unusable(draw: Draw, error: Exception) -> DataError:
    return DataError(f"{type(error).__name__}: {error}", where=f"source {draw.source}, record {draw.position}")


def replacement(draw: Draw, size: int, groups: np.ndarray | None) -> Draw:
    """Another record of the same source and aspect group, a pure function of the draw.

    Args:
        draw: what could not be used.
        size: records of its source.
        groups: (records,) of the source, or None.
    """
    for turn in range(10_000):
        position = mix(draw.seed, turn, 0x0BAD) % size
        if groups is None or groups[position] == groups[draw.position]:
            break
    else:
        position = draw.position  # its group is rarer than one in thousands
    return Draw(draw.source, position, mix(draw.seed, position, 0x5EED))


class Reader:
    """Draws to samples, in a worker or in the main process.

    Args:
        sources: by name.
        policy: what a bad sample does.
        max_in_a_row: records that may fail one after the other before the run stops.
        known_bad: positions per source that an earlier part of the run listed.
    """

    def __init__(
        self,
        sources: Mapping[str, DataSource],
        policy: Policy = "error",
        max_in_a_row: int = 100,
        known_bad: Mapping[str, Iterable[int]] | None = None,
    ) -> None:
        self._sources = sources
        self._policy = policy
        self._max_in_a_row = max_in_a_row
        self._groups: dict[str, np.ndarray | None] = {}
        self._quarantine = {name: set((known_bad or {}).get(name, ())) for name in sources}

    def read(self, draw: Draw) -> tuple[Sample | ConversationSample, list[Incident]]:
        """The sample of a draw, or of the first usable replacement, and what went wrong on the way.

        Raises:
            DataError: the policy is "error", or no replacement is usable either.
        """
        source = self._sources[draw.source]
        incidents: list[Incident] = []
        for _ in range(self._max_in_a_row):
            if draw.position not in self._quarantine[draw.source]:
                try:
                    sample = source.sample(draw)
                except (DataError, *_UNUSABLE) as error:
                    failure = error if isinstance(error, DataError) else _unusable(draw, error)
                    if self._policy == "error":
                        raise failure from None
                    incidents.append(Incident(draw.source, draw.position, failure.what, failure.where or ""))
                    if self._policy == "quarantine":
                        self._quarantine[draw.source].add(draw.position)
                else:
                    if sample is not None:
                        return sample, incidents
                    incidents.append(Incident(draw.source, draw.position, "", ""))
            draw = replacement(draw, len(source), self._groups_of(draw.source))
        last = next((item for item in reversed(incidents) if item.what), None)
        raise DataError(
            f"{self._max_in_a_row} records of source {draw.source!r} in a row gave no sample",
            where=f"the last: {last.where}: {last.what}" if last else "nothing was left of them after the transform",
            do="see `mmcore data check` for what is wrong with this source; a missing folder looks like this",
        )

    def _groups_of(self, name: str) -> np.ndarray | None:
        # Computed when the first bad sample asks for it: one byte a record, and most workers never do.
        if name not in self._groups:
            self._groups[name] = self._sources[name].aspect_groups()
        return self._groups[name]


class BadSamples:
    """The main process's account of bad samples.

    Args:
        path: where to list them, one JSON object a line, each sample once; None lists nothing.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self.counts: Counter[str] = Counter()
        """Bad samples met so far per source, repetitions included."""
        self.empty: Counter[str] = Counter()
        """Samples of which nothing was left, per source."""
        self._listed = {(entry["source"], entry["position"]) for entry in read_list(path)} if path else set()

    def take(self, incidents: Iterable[Incident]) -> None:
        """Count, and list those not listed yet."""
        fresh = []
        for incident in incidents:
            if not incident.what:
                self.empty[incident.source] += 1
                continue
            self.counts[incident.source] += 1
            if (incident.source, incident.position) not in self._listed:
                self._listed.add((incident.source, incident.position))
                fresh.append(incident)
        self._append(fresh)

    def summary(self) -> dict[str, Any]:
        """`{"bad": {source: count}, "empty": {source: count}, "listed": count}`."""
        return {"bad": dict(self.counts), "empty": dict(self.empty), "listed": len(self._listed)}

    def _append(self, incidents: list[Incident]) -> None:
        if not incidents or self._path is None:
            return
        lines = [json.dumps(incident._asdict()) + "\n" for incident in incidents]
        with open(self._path, "ab+") as file:
            if file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
                lines.insert(0, "\n")  # the last line was cut by a crash
            file.write("".join(lines).encode())
            file.flush()
            os.fsync(file.fileno())


def read_list(path: Path) -> list[dict[str, Any]]:
    """The entries of a `bad_samples.jsonl`; none when there is no such file. A line cut by a crash is left out."""
    return read_json_lines(path, {"source": str, "position": int})


def quarantined(path: Path) -> dict[str, set[int]]:
    """Positions per source that a `bad_samples.jsonl` lists."""
    result: dict[str, set[int]] = {}
    for entry in read_list(path):
        result.setdefault(entry["source"], set()).add(entry["position"])
    return result
