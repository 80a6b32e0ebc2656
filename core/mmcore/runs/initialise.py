"""Where a run's weights start: random, a finished run, a published file, or a name on the Hub, pinned by commit.

Nothing falls back in silence. A stage whose recipe names published weights fails without them and says how to get
them or how to start from random weights instead.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mmcore.base import hub
from mmcore.contract.recipe import Stage
from mmcore.errors import MissingDataError, UsageError, WeightsError, some
from mmcore.runs.build import adapt, attach, build_model
from mmcore.runs.plugin import OpenedPlugin
from mmcore.runs.settings import CONFIG_NAME, Settings, read_settings
from mmcore.train.stored import split
from mmcore.weights.files import read_tensors
from mmcore.weights.maps import LoadReport

if TYPE_CHECKING:
    from torch import nn

    from mmcore.contract.model import Model
    from mmcore.weights.fill import Keeping


def starting_model(
    family: OpenedPlugin, settings: Settings, folder: Path | None = None, keeping: "Keeping | None" = None
) -> "tuple[Model, list[dict[str, Any]]]":
    """The model of a new run with its starting values, and what they come from (see `initialise`).

    Where files give the values, the model is a skeleton until each tensor is read into its place, and only what no file
    fills is drawn at random, from the run's seed.

    Args:
        family: builds the model.
        settings: of the run.
        folder: of the run.
        keeping: how values are kept.

    Raises:
        MissingDataError, WeightsError: as `initialise`.
        RecipeError: a pattern of `trainable` or `frozen` matches no parameter.
    """
    from mmcore.weights.fill import Keeping, filling
    from mmcore.weights.skeleton import skeleton

    root = Path(settings.data)
    if not chosen_starts(settings.stage, settings.init, root):
        model = build_model(family, settings)
        attach(model, settings, folder)
        adapt(model, settings)
        return model, []
    frozen = _frozen(family, settings)
    with skeleton() as registered:
        model = build_model(family, settings)
    attach(model, settings, folder)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)  # how a value is kept depends on whether it is trained
    with filling(keeping or Keeping()):
        record = initialise(model, settings.stage, settings.init, root)
        _draw_rest(model, registered, family, settings)
    adapt(model, settings)
    return model, record


def resumed_model(
    family: OpenedPlugin, settings: Settings, folder: Path | None = None, keeping: "Keeping | None" = None
) -> "tuple[Model, list[dict[str, Any]]]":
    """The model of a run that goes on: a skeleton, which the training loop fills from the newest checkpoint."""
    from mmcore.weights.skeleton import skeleton

    del keeping  # the loop's
    with skeleton():
        model = build_model(family, settings)
        adapt(model, settings)
    attach(model, settings, folder)
    return model, []


def _frozen(family: OpenedPlugin, settings: Settings) -> set[str]:
    """Names of parameters that the run does not train, those that get an adapter included."""
    from mmcore.train.lora import without_base
    from mmcore.train.optim import freeze
    from mmcore.weights.skeleton import skeleton

    with skeleton():
        model = build_model(family, settings)
        adapt(model, settings)
    freeze(model, settings.stage)
    return {without_base(name) for name, parameter in model.named_parameters() if not parameter.requires_grad}


def _draw_rest(model: "Model", registered: "Sequence[nn.Parameter]", family: OpenedPlugin, settings: Settings) -> None:
    """Fresh values for the parameters that no file filled, by building the model again with these alone."""
    from mmcore.weights.fill import fill, unfilled
    from mmcore.weights.skeleton import skeleton

    names = set(unfilled(model))
    if not names:
        return
    wanted = {parameter for name, parameter in model.named_parameters() if name in names}
    places = frozenset(i for i, parameter in enumerate(registered) if parameter in wanted)
    try:
        with skeleton(places):
            fresh = build_model(family, settings)
        whole = not any(parameter.is_meta for name, parameter in fresh.named_parameters() if name in names)
    except (NotImplementedError, RuntimeError):  # torch's, for arithmetic with a value that was not made
        whole = False
    if not whole:  # a constructor computes one parameter from others, or copies modules
        fresh = build_model(family, settings)
    fill(model, {name: parameter for name, parameter in fresh.named_parameters() if name in names})


def initialise(model: "Model", stage: Stage, starts: Sequence[str], data_root: Path) -> list[dict[str, Any]]:
    """Fill a freshly built model from the places a run starts from, in order; later ones replace earlier values.

    Args:
        model: with random weights.
        stage: says what the published recipe starts from.
        starts: the values of --init; empty means the recipe's own.
        data_root: published files are looked up in its folder `weights` before the Hub is asked.

    Returns:
        What was loaded, for `run.json`: source, and for Hub files the commit.

    Raises:
        MissingDataError: a file is not there, or the recipe's own cannot be had.
        WeightsError: it does not fit the model.
    """
    records: list[dict[str, Any]] = []
    filled: set[str] = set()
    needed: dict[str, str] = {}
    for start in chosen_starts(stage, starts, data_root):
        record, report = _load(model, start)
        filled |= set(report.filled)
        needed |= dict.fromkeys(report.needed, start.place)
        records.append(record)
    _refuse_gaps({name: start for name, start in needed.items() if name not in filled})
    return records


def _refuse_gaps(gaps: Mapping[str, str]) -> None:
    """A file that is neither whole nor a known part would leave parts of the model random."""
    if gaps:
        first = next(iter(gaps.values()))
        raise WeightsError(
            f"the file is neither whole nor a part that is known: it lacks {by_module(list(gaps))}, which nothing else"
            " fills",
            where=first,
            do="give a file that is whole, or what fills the rest as another --init",
        )


def by_module(names: Sequence[str], depth: int = 1) -> str:
    """How many of these names lie in each part of the model.

    >>> by_module(["text_encoder.a", "text_encoder.b", "fusion.c"])
    'text_encoder 2, fusion 1'
    """
    counts = Counter(".".join(name.split(".")[:depth]) for name in names)
    return some([f"{module} {count}" for module, count in counts.most_common()])


def by_part(names: Sequence[str]) -> str:
    """How many names of a file lie in each part of its model; what all of them begin with (`model.`) is no part.

    >>> by_part(["model.heads.0.a", "model.heads.1.a", "model.norm.a"])
    'model.heads 2, model.norm 1'
    """
    parts = [name.split(".") for name in names]
    depth = 1
    while len(parts) > 1 and min(map(len, parts)) > depth + 1 and len({tuple(one[:depth]) for one in parts}) == 1:
        depth += 1
    return by_module(names, depth)


def told_start(record: Mapping[str, Any]) -> str:
    """A line about what one start filled, from the record of it in `run.json`."""
    new, misfits = record["new"], record.get("misfits", [])
    parts = [f"{record['filled']} tensors filled"]
    parts += [f"{len(new)} new ({by_module(new)})"] if new else ["none new"]
    where = f" ({record['ignored_by_part']})" if record.get("ignored_by_part") else ""  # older records lack it
    parts += [f"{record['ignored']} of the file left out{where}"] * bool(record["ignored"])
    parts += [f"{len(misfits)} of another shape"] * bool(misfits)
    return f"weights from {record['source']}: {', '.join(parts)}"


class Start(NamedTuple):
    """A place that weights come from."""

    place: str
    part: str | None = None
    """The part of the model that it is to fill, where the recipe says so."""


def chosen_starts(stage: Stage, starts: Sequence[str], data_root: Path) -> list[Start]:
    """The places that weights come from, in order; none means random ones.

    Raises:
        UsageError: `random` beside others, or a stage that needs another's run.
        MissingDataError: the recipe's own cannot be had.
    """
    if "random" in starts and len(starts) > 1:
        raise UsageError("--init random goes with no other --init", where=", ".join(starts))
    if starts:
        return [Start(start) for start in starts if start != "random"]
    return _recipe_start(stage, data_root)


def _recipe_start(stage: Stage, data_root: Path) -> list[Start]:
    names = stage.init.names
    if not names:
        if stage.init.optional:
            return []
        raise UsageError(
            f"stage {stage.number} {stage.name} starts from stage {stage.init.stage}",
            do="give its run with --init RUN, or --init random",
        )
    local = {name: _local(name, data_root) for name in names}
    for name in names:
        if not hub.is_hub(name) and not local[name].exists():
            raise MissingDataError(
                f"stage {stage.number} {stage.name} starts from {name}, which is not there",
                where=local[name].parent,
                do="fetch it (the notes of `mmcore plugins show` say from where), give --init FILE, or --init random",
            )
    parts = tuple(stage.init.published) if isinstance(stage.init.published, dict) else (None,) * len(names)
    found = (str(local[name]) if local[name].exists() else name for name in names)
    return [Start(place, part) for place, part in zip(found, parts, strict=True)]


def _local(name: str, data_root: Path) -> Path:
    """Where a published place lies on this machine; a folder that a user named is where it is."""
    return Path(name) if Path(name).is_absolute() else data_root / "weights" / name.rsplit("/", 1)[-1]


def place_of_start(start: str) -> Path | None:
    """Where weights lie on this disk; None for what the Hub has.

    Raises:
        MissingDataError: there is nothing.
    """
    if hub.is_hub(start):
        return None
    path = Path(start).expanduser()
    if not path.exists():
        raise MissingDataError(
            f"there are no weights at {path}",
            where="--init",
            do="give a run folder, a checkpoint file or hf://OWNER/NAME/FILE; --init random starts without",
        )
    return path


def _load(model: "Model", chosen: Start) -> tuple[dict[str, Any], LoadReport]:
    start, part = chosen
    record: dict[str, Any] = {"source": start}
    path = place_of_start(start)
    if path is None:
        path = hub.fetch(
            start,
            do="put it into the folder `weights` of the data root, give it with --init FILE, or use --init random",
        )
        record["commit"] = hub.commit_of(path)
    run_dir, which = split(path)
    is_run = (run_dir / CONFIG_NAME).is_file()
    report = _load_run(model, run_dir, which or "last") if is_run else _load_published(model, path, part)
    record["filled"], record["new"], record["ignored"] = len(report.filled), report.new, len(report.ignored)
    record["ignored_by_part"] = by_part(report.ignored)
    record["misfits"] = report.misfits
    return record, report


def _load_published(model: "Model", path: Path, part: str | None) -> LoadReport:
    """A published file: the family's own way when it has one, else by its published names."""
    from mmcore.weights.fill import fill

    report = model.initialise(path) if part is None else model.initialise_part(path, part)
    if report is not None:
        return report
    loaded, report = model.published("upstream").to_ours(read_tensors(path), model.state_dict())
    fill(model, loaded)
    return report


def _load_run(model: "Model", run_dir: Path, checkpoint: str) -> LoadReport:
    """Weights of a run's checkpoint, of this stage or the one before, by way of the published names both share."""
    from mmcore.train.checkpoint import load_weights
    from mmcore.train.lora import fold
    from mmcore.weights.fill import fill

    state, lora = load_weights(run_dir, checkpoint), read_settings(run_dir).stage.lora
    if lora is not None:  # a stage starts from merged weights, and gets adapters of its own afterwards
        state = fold(state, lora)
    own = model.state_dict()
    if state.keys() == own.keys():
        fill(model, state)
        return LoadReport(filled=list(state))
    published = model.published("upstream").to_published(state)
    loaded, report = model.published_parts(published).to_ours(published, own)
    fill(model, loaded)
    return report
