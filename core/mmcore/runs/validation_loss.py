"""The loss of a validation set: the training objective on a few of its records, with the weights held still.

The set is opened once more as if it were a training source. Everything is as in a training step, with the losses that
are added there (of inner layers, of denoising), but what is drawn at random is always the same and dropout is off; so
the number changes with the weights alone, and can be compared with the training loss. Losses are divided by their
counts over all of these records, whatever `normalise` says of training.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmcore.base.hashing import mix, name_key
from mmcore.base.signals import pending
from mmcore.contract.mixture import SourcePerBatch
from mmcore.contract.recipe import DATA_FIELDS, Source, Stage, Validation
from mmcore.errors import DataError, MmcoreError, RecipeError, Stopped
from mmcore.runs.build import build_datasets
from mmcore.runs.plugin import OpenedPlugin
from mmcore.runs.settings import Settings
from mmcore.train.evaluations import failure_text

if TYPE_CHECKING:
    import torch
    from torch import nn

    from mmcore.base.distributed import Place
    from mmcore.contract.protocols import Datasets
    from mmcore.contract.values import Batch


def learnable_sets(family: OpenedPlugin, settings: Settings, names: Sequence[str]) -> "dict[str, Datasets]":
    """The validation sets that a stage could also be trained on, opened that way.

    Args:
        family: the plugin.
        settings: of the run.
        names: validation sets that are evaluated.
    """
    found: dict[str, Datasets] = {}
    for name in names:
        entry = settings.stage.validation.get(name)
        if entry is None or not entry.loss_on:
            continue
        try:
            alone = settings.replace(stage=_training_on(settings.stage, name, entry), only=None)
            opened = build_datasets(family, alone, "train")
        except (DataError, RecipeError):
            continue  # questions, or options that only an evaluation has: there is nothing to learn
        except MmcoreError:
            continue  # such as teachers whose cache holds the training data alone
        if name in opened.sources and len(opened.sources[name]):
            found[name] = opened
    return found


def _training_on(stage: Stage, name: str, entry: Validation) -> Stage:
    """The stage with one validation set in the place of its sources."""
    source = Source(weight=1.0, **{key: getattr(entry, key) for key in DATA_FIELDS})
    data = stage.data.replace(sources={name: source}, mixture=SourcePerBatch(), templates=None)
    return stage.replace(data=data, validation={}, best_metric=None, patience=None)


def validation_loss(
    model: "nn.Module", datasets: "Datasets", stage: Stage, name: str, device: "torch.device", place: "Place"
) -> tuple[float | None, str | None]:
    """The loss of one set, or why there is none; the same on all processes.

    Args:
        model: whole weights; its modes and the random state are left as they were.
        datasets: from `learnable_sets`.
        stage: the recipe.
        name: of the set.
        device: where the model is.
        place: this process among those that measure together.

    Raises:
        Stopped: a signal asked any process of a training run to stop. On all processes.
    """
    from mmcore.base.distributed import all_gather_json

    batches = _batches(datasets, stage, name, place)
    _agreed(place, None)
    counts = [len(batches)] if place.world_size == 1 else all_gather_json(len(batches))
    if not min(counts):
        return None, "too few of its records can be learned"
    own, failure = _sums(model, batches, max(counts), stage, device, place)
    gathered: list[list[Any]] = [[own, failure]] if place.world_size == 1 else all_gather_json([own, failure])
    if failures := [failure for _, failure in gathered if failure]:
        return None, failures[0]
    totals: dict[str, list[float]] = {}
    for found, _ in gathered:
        for per, (total, count) in found.items():
            before = totals.get(per, [0.0, 0.0])
            totals[per] = [before[0] + total, before[1] + count]
    return sum(total / max(count, 1.0) for total, count in totals.values()), None


def _sums(
    model: "nn.Module",
    batches: "Sequence[tuple[int, Batch]]",
    calls: int,
    stage: Stage,
    device: "torch.device",
    place: "Place",
) -> tuple[dict[str, list[float]], str | None]:
    """What the losses are divided by -> their sum and how many there are, over this process' batches; and what failed.

    Every process calls the model as often, since families speak to each other in training mode: one with fewer batches
    repeats its last and leaves it out of the sums.
    """
    import torch

    from mmcore.evaluate.run import evaluating
    from mmcore.train.objective import DTYPES

    dtype = DTYPES[stage.precision]
    sums: dict[str, Any] = {}
    failure: str | None = None
    with evaluating(model), torch.no_grad():
        _as_in_training(model)
        for turn in range(calls):
            if failure := _agreed(place, failure):
                return {}, failure
            number, batch = batches[min(turn, len(batches) - 1)]
            torch.manual_seed(mix(name_key("validation loss"), number) >> 1)
            try:
                with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
                    losses: Mapping[str, Any] = model(batch.to(device))
            except Exception as error:  # of a family that cannot do without what only training data has
                if place.world_size > 1 and not isinstance(error, MmcoreError):
                    raise  # the others may be in the middle of it
                failure = failure_text(error)
                continue  # the others are told at their next turn
            for loss in losses.values() if turn < len(batches) else ():
                sums[loss.per] = sums.get(loss.per, 0.0) + loss.total.float()
    counted = {
        per: [float(total), sum(batch.normalisers.get(per, 0.0) for _, batch in batches)] for per, total in sums.items()
    }
    return counted, failure


def _agreed(place: "Place", failure: str | None) -> str | None:
    """What failed on this process or another; all of them ask as often, so that none waits for one that has ended.

    Raises:
        Stopped: a signal has asked any of them to stop.
    """
    from mmcore.base.distributed import all_gather_json

    told: list[list[Any]] = [[pending(), failure]] if place.world_size == 1 else all_gather_json([pending(), failure])
    if stop := max(number for number, _ in told):
        raise Stopped(stop, "the loss of a validation set was interrupted by a signal")
    return next((text for _, text in told if text), None)


def _as_in_training(model: "nn.Module") -> None:
    """Training mode, with everything that a step computes, but without dropout and without new running statistics."""
    from torch import nn

    dropouts = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
    still = (*dropouts, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    model.train()
    for module in model.modules():
        if isinstance(module, still):
            module.eval()


def _batches(datasets: "Datasets", stage: Stage, name: str, place: "Place") -> "list[tuple[int, Batch]]":
    """This process' batches of the first records, each with its number; records that cannot be used are left out."""
    from mmcore.contract.values import Draw

    source, found = datasets.sources[name], []
    total = min(len(source), stage.validation[name].loss_on)
    starts = range(0, total, stage.micro_batch)
    for number, start in list(enumerate(starts))[place.rank :: place.world_size]:
        samples = []
        for position in range(start, min(start + stage.micro_batch, total)):
            if pending():
                return found  # no more is needed; the others are told behind this
            try:
                sample = source.sample(Draw(name, position, mix(name_key("validation loss"), position)))
            except DataError:
                continue  # the evaluation of the set tells it
            samples += [sample] if sample is not None else []
        if samples:
            found.append((number, datasets.collate[name](samples, number)))
    return found
