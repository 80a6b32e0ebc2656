"""Checks of a stage's recipe: typing errors are caught, and no entry is silent."""

from typing import TYPE_CHECKING

from mmcore.conformance.recipe_leaves import silent_entries
from mmcore.conformance.subject import Subject, must_refuse, require
from mmcore.runs.build import build_datasets, build_model
from mmcore.runs.plugin import OpenedPlugin
from mmcore.runs.settings import Settings

if TYPE_CHECKING:
    from mmcore.contract.protocols import Datasets


def typos_are_caught(subject: Subject) -> str:
    """Patterns that match nothing and unknown settings are errors."""
    from mmcore.train.optim import freeze, parameter_groups

    typo = "no_such_module_anywhere"
    stage = subject.stage
    model = build_model(subject.family, subject.settings)
    must_refuse("a frozen pattern that matches nothing", lambda: freeze(model, stage.replace(frozen=(typo,))))
    freeze(model, stage)
    wrong = stage.replace(optim=stage.optim.replace(multipliers={typo: 0.1}))
    must_refuse("a multiplier pattern that matches nothing", lambda: parameter_groups(model, wrong))
    for key, broken in {
        "model": stage.replace(model={**stage.model, typo: 1}),
        "data.transform": stage.replace(data=stage.data.replace(transform={**stage.data.transform, typo: 1})),
    }.items():
        settings = subject.settings.replace(stage=broken)
        build = build_model if key == "model" else _build_train
        must_refuse(
            f"an unknown entry of {key}", lambda build=build, settings=settings: build(subject.family, settings)
        )
    return ""


def nothing_is_silent(subject: Subject) -> str:
    """Every perturbed entry of the recipe is read or refused."""
    silent = list(silent_entries(subject.family, subject.settings))
    require(not silent, "; ".join(silent))
    return ""


def _build_train(family: OpenedPlugin, settings: Settings) -> "Datasets":
    return build_datasets(family, settings, "train")
