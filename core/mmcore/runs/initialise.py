"""Where a run's weights start: random, a finished run, a published file, or a name on the Hub, pinned by commit.

Nothing falls back in silence. A stage whose recipe names published weights fails without them and says how to get
them or how to start from random weights instead.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcore.base import hub
from mmcore.contract.recipe import Stage
from mmcore.errors import MissingDataError, UsageError
from mmcore.runs.settings import read_settings
from mmcore.weights.files import read_tensors
from mmcore.weights.maps import LoadReport

if TYPE_CHECKING:
    from mmcore.contract.model import Model


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
    chosen = list(starts) or _recipe_start(stage, data_root)
    if "random" in chosen and len(chosen) > 1:
        raise UsageError("--init random goes with no other --init", where=", ".join(chosen))
    return [_load(model, start) for start in chosen if start != "random"]


def _recipe_start(stage: Stage, data_root: Path) -> list[str]:
    published = stage.init.published
    if published is None:
        if stage.init.optional:
            return []
        raise UsageError(
            f"stage {stage.number} {stage.name} starts from stage {stage.init.stage}",
            do="give its run with --init RUN, or --init random",
        )
    names = (published,) if isinstance(published, str) else published
    local = {name: data_root / "weights" / name.rsplit("/", 1)[-1] for name in names}
    for name in names:
        if not hub.is_hub(name) and not local[name].exists():
            raise MissingDataError(
                f"stage {stage.number} {stage.name} starts from {name}, which is not there",
                where=local[name].parent,
                do="fetch it (the notes of `mmcore plugins show` say from where), give --init FILE, or --init random",
            )
    return [str(local[name]) if local[name].exists() else name for name in names]


def _load(model: "Model", start: str) -> dict[str, Any]:
    record: dict[str, Any] = {"source": start}
    if hub.is_hub(start):
        path = hub.fetch(
            start,
            do="put it into the folder `weights` of the data root, give it with --init FILE, or use --init random",
        )
        record["commit"] = hub.commit_of(path)
    else:
        path = Path(start).expanduser()
    if not path.exists():
        raise MissingDataError(
            f"there are no weights at {path}",
            where="--init",
            do="give a run folder, a checkpoint file or hf://OWNER/NAME/FILE; --init random starts without",
        )
    report = _load_run(model, path) if (path / "config.yaml").is_file() else _load_published(model, path)
    record["filled"], record["new"], record["ignored"] = len(report.filled), report.new, len(report.ignored)
    return record


def _load_published(model: "Model", path: Path) -> LoadReport:
    """A published file: the family's own way when it has one, else by its published names."""
    report = model.initialise(path)
    if report is not None:
        return report
    own = model.state_dict()
    loaded, report = model.published("upstream").to_ours(read_tensors(path), own)
    model.load_state_dict({**own, **loaded})
    return report


def _load_run(model: "Model", run_dir: Path) -> LoadReport:
    """Weights of a finished run, of this stage or the one before, by way of the published names both share."""
    from mmcore.train.checkpoint import load_weights
    from mmcore.train.lora import fold

    state, lora = load_weights(run_dir), read_settings(run_dir).stage.lora
    if lora is not None:  # a stage starts from merged weights, and gets adapters of its own afterwards
        state = fold(state, lora)
    own = model.state_dict()
    if state.keys() == own.keys():
        model.load_state_dict(state)
        return LoadReport(filled=list(state))
    published = model.published("upstream").to_published(state)
    loaded, report = model.published_parts(published).to_ours(published, own)
    model.load_state_dict({**own, **loaded})
    return report
