"""Take a model through a validation set: predict every image, gather from all processes, summarise on the first."""

import contextlib
import json
import sys
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils.data import DataLoader

from mmcore.base.distributed import Place, all_gather_json, broadcast_json, gather_json
from mmcore.base.files import replace_text
from mmcore.base.progress import Count
from mmcore.base.signals import pending
from mmcore.contract.protocols import Collate, Datasets, DataSource, Evaluator
from mmcore.contract.recipe import Stage
from mmcore.contract.values import Batch, Draw, Prediction
from mmcore.data.bad import Incident, Policy
from mmcore.data.loader import DEADLINE_S
from mmcore.data.parcel import Unpacker, pack
from mmcore.errors import CheckpointError, DataError, MmcoreError, PluginError, Stopped, UsageError, suggest


def evaluate(
    model: nn.Module,
    datasets: Datasets,
    stage: Stage,
    source: str,
    *,
    device: torch.device | str = "cpu",
    batch_size: int | None = None,
    workers: int = 0,
    distributed: Place | None = None,
    folder: Path | None = None,
    limit: int | None = None,
    autocast: torch.dtype | None = None,
    progress: bool = True,
    policy: Policy = "error",
    take_bad: Callable[[Sequence[Incident]], None] | None = None,
    watch: "Watch | None" = None,
    more: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Metrics of `model` on one validation source, by the evaluator its plugin gives.

    Every process predicts a share of the images and the same number of batches, so that parameters which are gathered
    during the forward pass stay in step. The model's modes and the random state are what they were before.

    Args:
        model: satisfies the model contract; moved by the caller.
        datasets: the answer to `build_datasets` for "val".
        stage: the recipe; its validation entry says which metrics come first.
        source: one of its sources.
        device: where batches go.
        batch_size: records per forward pass; None takes the recipe's.
        workers: data loading processes.
        distributed: this process among all that evaluate together; None is alone.
        folder: gets `predictions.json` (COCO result format) and `metrics.json` on the first process.
        limit: only this many images, from the first.
        autocast: run `predict` under automatic mixed precision of this type.
        progress: show a progress line on stderr.
        policy: what a record that cannot be read does. "error" stops; otherwise another record is predicted in its
            place, it is left out of the metrics, and the evaluation is told to be incomplete: a benchmark with images
            left out is none.
        take_bad: is given the records that were left out, on the process that met them.
        watch: is given every batch with its predictions, on the process that made them.
        more: figures that were measured elsewhere, such as the loss; they stand with the metrics.

    Returns:
        Fractions by name, such as `bbox/AP50`; empty on all processes but the first.
    Raises:
        UsageError: there is no such validation source.
        DataError: an image cannot be read, by whichever process; or the metrics cannot be made. On all processes.
        Stopped: a signal asked any process of a training run to stop. On all processes.
    """
    place = distributed or Place()
    data, evaluator = _pick(datasets, source)
    total = _total(data, source, limit)
    entry = stage.validation.get(source)
    batches = shares(total, batch_size or (entry.batch_size if entry else 1), place)
    line = Count(f"eval {source}", "records", show=progress and place.is_first)
    done, began, left_out = 0, time.monotonic(), []
    with line, evaluating(model), torch.inference_mode(), _precision(device, autocast):
        for read in _load(_Batches(data, datasets.collate[source], batches, policy, total), workers):
            batch, incidents = _agreed(read, place)
            left_out += incidents
            predictions = model.predict(batch.to(device))  # type: ignore[operator]
            evaluator.update(batch, predictions)
            if watch is not None:
                watch(data, batch, predictions)
            done = min(total, done + len(batch) * place.world_size)
            line(done, total)
    items = _gather(evaluator.state(), place)
    missing = _tell_left_out(left_out, source, total, place)
    if take_bad is not None:
        take_bad(left_out)
    with _together(place, source):
        if not place.is_first:
            return {}
        metrics = _first(stage, source, {**evaluator.summarise(items), **(more or {})})
        if folder is not None:
            _write(folder, source, evaluator, items, metrics, time.monotonic() - began, missing)
        return metrics


class Watch(Protocol):
    """Looks on while a set is predicted."""

    def __call__(self, source: DataSource, batch: Batch, predictions: Sequence[Prediction]) -> None: ...


def shares(total: int, batch_size: int, place: Place) -> list[list[int]]:
    """The positions of one process, in batches: every process has as many, the last ones repeat images at the end.

    >>> [shares(5, 2, Place(rank, 2)) for rank in (0, 1)]
    [[[0, 2], [4, 1]], [[1, 3], [0, 2]]]
    """
    per_process = -(-total // (batch_size * place.world_size)) * batch_size
    if place.world_size == 1:
        per_process = total
    positions = [(place.rank + i * place.world_size) % total for i in range(per_process)]
    return [positions[start : start + batch_size] for start in range(0, per_process, batch_size)]


def _total(data: DataSource, source: str, limit: int | None) -> int:
    """How many images are predicted; none is an error."""
    total = len(data) if limit is None else min(limit, len(data))
    if total == 0:
        raise DataError(f"validation set {source!r} has no images", where=source)
    return total


def _first(stage: Stage, source: str, metrics: dict[str, float]) -> dict[str, float]:
    """The metrics with those the recipe names in front."""
    entry = stage.validation.get(source)
    wanted = [name for name in entry.metrics if name in metrics] if entry else []
    return {name: metrics[name] for name in [*wanted, *metrics]}


def _pick(datasets: Datasets, source: str) -> tuple[DataSource, Evaluator]:
    known = [name for name in datasets.sources if name in datasets.evaluators]
    if source not in known:
        raise UsageError(
            f"there is no validation set {source!r}",
            where=f"--on {source}",
            known=known or "none",
            do=suggest(source, known, "choose among these"),
        )
    evaluator = datasets.evaluators[source]()
    if not isinstance(evaluator, Evaluator):
        raise PluginError(
            f"the evaluator of {source!r} is a {type(evaluator).__name__}, not a mmcore.Evaluator",
            do="derive its class from mmcore.Evaluator, which has defaults for what it leaves out",
        )
    return datasets.sources[source], evaluator


class _Batches(torch.utils.data.Dataset[Any]):
    """Batches by number. A worker hands errors over as values, since the loader would rewrite their message."""

    def __init__(
        self, source: DataSource, collate: Collate, batches: Sequence[Sequence[int]], policy: Policy, total: int
    ) -> None:
        self.source, self.collate, self.batches = source, collate, batches
        self.policy, self.total = policy, total

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> "Read | MmcoreError":
        incidents: list[Incident] = []
        try:
            samples = [self._sample(position, incidents) for position in self.batches[number]]
            return self.collate(samples, 0), incidents
        except MmcoreError as error:
            return error
        except Exception as error:  # a plugin's code may raise anything
            last = traceback.extract_tb(error.__traceback__)[-1]
            return DataError(
                f"{type(error).__name__}: {error}",
                where=f"validation set {self.source.name}, records {', '.join(map(str, self.batches[number]))}; "
                f"{Path(last.filename).name}:{last.lineno} in {last.name}",
            )

    def _sample(self, position: int, incidents: list[Incident]) -> Any:
        """The sample of a record, or of the next that can be read: evaluators count an image once however often it
        comes, and every process goes on predicting as many batches as the others."""
        for place in range(position, position + min(self.total, _MAX_IN_A_ROW)):
            try:
                return self._read(place % self.total)
            except DataError as error:
                if self.policy == "error":
                    raise
                incidents.append(Incident(self.source.name, place % self.total, error.what, error.where or ""))
        raise DataError(
            f"{len(incidents)} records of validation set {self.source.name!r} in a row cannot be read",
            where=f"the last: {incidents[-1].where}: {incidents[-1].what}",
            do="see `mmcore data check` for what is wrong with this set",
        )

    def _read(self, position: int) -> Any:
        sample = self.source.sample(Draw(self.source.name, position, 0))
        if sample is None:
            raise DataError(
                "nothing is left of a validation record after its transform",
                where=f"{self.source.name}, record {position}",
                do="check the annotation with `mmcore data check`",
            )
        return sample


Read = tuple[Batch, list[Incident]]
"""A batch, and the records that could not be read and were replaced in it."""

_MAX_IN_A_ROW = 100


def _load(batches: _Batches, workers: int) -> Iterator[Read | MmcoreError]:
    loader = DataLoader(
        batches,
        batch_size=None,
        num_workers=min(workers, len(batches)),
        collate_fn=pack if workers else _as_it_is,
        timeout=DEADLINE_S if workers else 0,
        # Its own generator: starting workers draws a seed, and training must not notice an evaluation.
        generator=torch.Generator().manual_seed(0),
        multiprocessing_context="spawn" if workers and torch.cuda.is_initialized() else None,
    )
    yield from map(Unpacker(), loader)


def _as_it_is(read: Any) -> Any:
    return read


def _agreed(read: Read | MmcoreError, place: Place) -> Read:
    """The batch, if every process has one and none was asked to stop; else all of them stop with the same error.

    A process that stopped alone would leave the others waiting for it, in the forward pass of sharded weights at the
    latest.
    """
    stop = pending()
    if place.world_size > 1:
        words = all_gather_json([_told(read) if isinstance(read, MmcoreError) else None, stop])
        _raise_first([told for told, _ in words])
        stop = max(number for _, number in words)
    if isinstance(read, MmcoreError):
        raise read
    if stop:
        raise Stopped(stop, "an evaluation was ended by a signal")
    return read


def _told(error: MmcoreError) -> list[str | None]:
    return [error.what, error.where, error.known, error.do]


def _raise_first(told: Sequence[list[str | None] | None]) -> None:
    for what, where, known, do in filter(None, told):
        raise DataError(str(what), where=where, known=known, do=do)


@contextlib.contextmanager
def _together(place: Place, source: str) -> Generator[None]:
    """What the first process does alone; when it fails, all of them fail, so that none waits for it."""
    failure: MmcoreError | None = None
    try:
        yield
    except MmcoreError as error:
        failure = error
    except Exception as error:  # of an evaluator that a plugin brought, or of the toolkit behind it
        failure = DataError(
            f"the metrics of {source!r} cannot be made: {type(error).__name__}: {error}",
            where=f"validation set {source}",
            do="look at its annotation file with `mmcore data check`; --debug shows where it failed",
        )
        failure.__cause__ = error
    if place.world_size > 1:
        told = broadcast_json(_told(failure) if failure else None)
        if failure is None:
            _raise_first([told])
    if failure is not None:
        raise failure


def _tell_left_out(left_out: Sequence[Incident], source: str, total: int, place: Place) -> list[dict[str, Any]]:
    """The records that no process could read, by their position; told by the first process."""
    own = sorted({(one.position, one.where, one.what) for one in left_out})
    parts = all_gather_json(own) if place.world_size > 1 else [own]
    every = {position: (where, what) for part in parts for position, where, what in part}
    if every and place.is_first:
        where, what = every[min(every)]
        print(
            f"validation set {source}: {len(every)} of {total} records cannot be read and are left out of the metrics, "
            f"the first: {where}: {what}",
            file=sys.stderr,
        )
    return [
        {"position": position, "where": every[position][0], "what": every[position][1]} for position in sorted(every)
    ]


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Generator[None]:
    """Eval mode inside; afterwards every module's mode and the random state are restored."""
    modes = [(module, module.training) for module in model.modules()]
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        model.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training


def _precision(device: torch.device | str, dtype: torch.dtype | None) -> contextlib.AbstractContextManager[Any]:
    kind = torch.device(device).type
    return contextlib.nullcontext() if dtype in (None, torch.float32) else torch.autocast(kind, dtype=dtype)


def _gather(items: list[Any], place: Place) -> list[Any]:
    if place.world_size == 1:
        return items
    gathered = gather_json(items)
    return [item for part in gathered for item in part] if gathered else []


def _write(
    folder: Path,
    source: str,
    evaluator: Evaluator,
    items: list[Any],
    metrics: dict[str, float],
    seconds: float,
    left_out: list[dict[str, Any]],
) -> None:
    record = {
        "source": source,
        "images": len({item["image_id"] for item in items if item.get("image_id") is not None}),
        "frames": len({(item["image_id"], item["frame"]) for item in items if item.get("frame") is not None}),
        "records": len({(item["image_id"], item.get("record_id")) for item in items if "image_id" in item}),
        "seconds": round(seconds, 1),
        "complete": not left_out,
        "left_out": left_out,
        "metrics": metrics,
        "categories": {kind: dict(values) for kind, values in evaluator.category_ap.items()},
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        results = evaluator.results(items)
        if results is not None:
            replace_text(folder / "predictions.json", json.dumps(results) + "\n")
        evaluator.write(items, folder)
        replace_text(folder / "metrics.json", json.dumps(record, indent=2) + "\n")
    except OSError as error:
        raise CheckpointError(f"cannot write into {folder}: {error.strerror}", do="choose another folder") from None
