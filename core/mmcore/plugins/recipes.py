"""The stages of a family: asked of its plugin and of what wraps it, checked, and found by number or name."""

from collections.abc import Sequence

from mmcore.contract.recipe import Stage
from mmcore.errors import PluginError, RecipeError, suggest
from mmcore.plugins.calls import Manager, call
from mmcore.plugins.explain import shape_of
from mmcore.plugins.plugin import Plugin


def stages(hooks: Manager, plugin: Plugin, variant: str) -> tuple[Stage, ...]:
    """The family's stages for one variant in order of their numbers, checked for distinct numbers and names.

    Raises:
        PluginError: the hook fails or returns something else.
        RecipeError: the variant does not exist.
    """
    if plugin.variants and variant not in plugin.variants:
        raise RecipeError(
            f"{plugin.name} has no variant {variant!r}",
            where=f"--variant {variant}, plugin {plugin.label}",
            known=plugin.variants,
            do=suggest(variant, plugin.variants, "choose one of these"),
        )
    result = call(hooks, plugin, "stage_params", variant=variant)
    if not isinstance(result, (list, tuple)) or not result or not all(isinstance(stage, Stage) for stage in result):
        raise PluginError(
            f"stage_params must return a non-empty list or tuple of mmcore.Stage, not {shape_of(result)}",
            where=f"plugin {plugin.label}, variant {variant}",
            do="report this to the plugin's author",
        )
    keys = [key for stage in result for key in (str(stage.number), stage.name)]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise PluginError(
            f"two stages share the number or name {twice!r}",
            where=f"plugin {plugin.label}, variant {variant}",
            do="report this to the plugin's author",
        )
    return tuple(sorted(result, key=lambda stage: stage.number))


def find_stage(all_stages: Sequence[Stage], wanted: str, plugin: Plugin) -> Stage:
    """The stage with this number or name.

    Raises:
        RecipeError: there is none.
    """
    for stage in all_stages:
        if wanted in (str(stage.number), stage.name):
            return stage
    known = [f"{stage.number} {stage.name}" for stage in all_stages]
    names = [stage.name for stage in all_stages]
    raise RecipeError(
        f"{plugin.name} has no stage {wanted}",
        where=f"--stage {wanted}, plugin {plugin.label}",
        known=known,
        do=suggest(wanted, names, "choose one of these, or see `mmcore plugins show " + plugin.name + "`"),
    )
