"""Take a model through a validation set: predict every image, gather from all processes, summarise on the first."""

import contextlib
import json
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from mmcore.base.distributed import Place, all_gather_json, gather_json
from mmcore.base.files import replace_text
from mmcore.contract.protocols import Collate, Datasets, DataSource
from mmcore.contract.recipe import Stage
from mmcore.contract.values import Batch, Draw
from mmcore.errors import CheckpointError, DataError, MmcoreError, UsageError, suggest


def evaluate(
    model: nn.Module,
    datasets: Datasets,
    stage: Stage,
    source: str,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 1,
    workers: int = 0,
    distributed: Place | None = None,
    folder: Path | None = None,
    limit: int | None = None,
    autocast: torch.dtype | None = None,
    progress: bool = True,
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
        batch_size: images per forward pass; the published protocols use 1, more pads images to one size.
        workers: data loading processes.
        distributed: this process among all that evaluate together; None is alone.
        folder: gets `predictions.json` (COCO result format) and `metrics.json` on the first process.
        limit: only this many images, from the first.
        autocast: run `predict` under automatic mixed precision of this type.
        progress: show a progress line on stderr.

    Returns:
        Fractions by name, such as `bbox/AP50`; empty on all processes but the first.
    Raises:
        UsageError: there is no such validation source.
        DataError: an image cannot be read, by whichever process; a benchmark with images left out would not be one.
    """
    place = distributed or Place()
    data, evaluator = _pick(datasets, source)
    total = len(data) if limit is None else min(limit, len(data))
    if total == 0:
        raise DataError(f"validation set {source!r} has no images", where=source)
    batches = shares(total, batch_size, place)
    line = _Progress(source, total, enabled=progress and place.is_first)
    began = time.monotonic()
    with _evaluating(model), torch.inference_mode(), _precision(device, autocast):
        for read in _load(data, datasets.collate[source], batches, workers):
            batch = _agreed(read, place)
            evaluator.update(batch, model.predict(batch.to(device)))  # type: ignore[operator]
            line.advance(len(batch) * place.world_size)
    items = _gather(evaluator.state(), place)
    line.close()
    if not place.is_first:
        return {}
    metrics = _first(stage, source, evaluator.summarise(items))
    if folder is not None:
        _write(folder, source, evaluator, items, metrics, time.monotonic() - began)
    return metrics


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


def _first(stage: Stage, source: str, metrics: dict[str, float]) -> dict[str, float]:
    """The metrics with those the recipe names in front."""
    entry = stage.validation.get(source)
    wanted = [name for name in entry.metrics if name in metrics] if entry else []
    return {name: metrics[name] for name in [*wanted, *metrics]}


def _pick(datasets: Datasets, source: str) -> tuple[DataSource, Any]:
    known = [name for name in datasets.sources if name in datasets.evaluators]
    if source not in known:
        raise UsageError(
            f"there is no validation set {source!r}",
            where=f"--on {source}",
            known=known or "none",
            do=suggest(source, known, "choose among these"),
        )
    return datasets.sources[source], datasets.evaluators[source]()


class _Batches(torch.utils.data.Dataset[Any]):
    """Batches by number. A worker hands errors over as values, since the loader would rewrite their message."""

    def __init__(self, source: DataSource, collate: Collate, batches: Sequence[Sequence[int]]) -> None:
        self.source, self.collate, self.batches = source, collate, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Batch | MmcoreError:
        try:
            samples = [self.source.sample(Draw(self.source.name, p, 0)) for p in self.batches[number]]
            for position, sample in zip(self.batches[number], samples):
                if sample is None:
                    raise DataError(
                        "nothing is left of a validation record after its transform",
                        where=f"{self.source.name}, record {position}",
                        do="check the annotation with `mmcore data check`",
                    )
            return self.collate([sample for sample in samples if sample is not None], 0)
        except MmcoreError as error:
            return error


def _load(
    source: DataSource, collate: Collate, batches: list[list[int]], workers: int
) -> Iterator[Batch | MmcoreError]:
    loader = DataLoader(
        _Batches(source, collate, batches),
        batch_size=None,
        num_workers=min(workers, len(batches)),
        # Its own generator: starting workers draws a seed, and training must not notice an evaluation.
        generator=torch.Generator().manual_seed(0),
        multiprocessing_context="spawn" if workers and torch.cuda.is_initialized() else None,
    )
    yield from loader


def _agreed(read: Batch | MmcoreError, place: Place) -> Batch:
    """The batch, if every process has one; else all of them stop with the same error.

    A process that stopped alone would leave the others waiting for it, in the forward pass of sharded weights at the
    latest.
    """
    if place.world_size > 1:
        failed = (read.what, read.where, read.known, read.do) if isinstance(read, MmcoreError) else None
        told = [error for error in all_gather_json(failed) if error is not None]
        if told and not isinstance(read, MmcoreError):
            what, where, known, do = told[0]
            raise DataError(what, where=where, known=known, do=do)
    if isinstance(read, MmcoreError):
        raise read
    return read


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Generator[None]:
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
    folder: Path, source: str, evaluator: Any, items: list[Any], metrics: dict[str, float], seconds: float
) -> None:
    record = {
        "source": source,
        "images": len({item["image_id"] for item in items if "image_id" in item}),
        "seconds": round(seconds, 1),
        "metrics": metrics,
        "categories": getattr(evaluator, "category_ap", {}),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if hasattr(evaluator, "results"):
            replace_text(folder / "predictions.json", json.dumps(evaluator.results(items)) + "\n")
        if hasattr(evaluator, "write"):
            evaluator.write(items, folder)
        replace_text(folder / "metrics.json", json.dumps(record, indent=2) + "\n")
    except OSError as error:
        raise CheckpointError(f"cannot write into {folder}: {error.strerror}", do="choose another folder") from None


class _Progress:
    """A line that is rewritten on a terminal, and one line every ten seconds elsewhere."""

    def __init__(self, name: str, total: int, *, enabled: bool) -> None:
        self.name, self.total, self.enabled = name, total, enabled
        self.terminal = sys.stderr.isatty()
        self.pause = 0.2 if self.terminal else 10.0
        self.done, self.began = 0, time.monotonic()
        self.shown = self.began

    def advance(self, images: int) -> None:
        self.done = min(self.total, self.done + images)
        now = time.monotonic()
        if self.enabled and now - self.shown >= self.pause:
            self.shown = now
            rate = self.done / (now - self.began)
            left = (self.total - self.done) / rate
            self._print(f"eval {self.name}  {self.done}/{self.total} images  {rate:.1f}/s  {left:.0f} s left")

    def close(self) -> None:
        if self.enabled and self.terminal:
            self._print("")

    def _print(self, text: str) -> None:
        # A terminal's line is cleared and written over; anything else gets lines.
        start, end = ("\r\x1b[K", "") if self.terminal else ("", "\n")
        print(f"{start}{text}", end=end, file=sys.stderr, flush=True)
