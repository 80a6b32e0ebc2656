"""Checks of a plugin as a package: without torch, nothing misspelt, recipes that survive YAML."""

import subprocess
import sys

from mmcore import plugins
from mmcore.base.yamltext import to_yaml
from mmcore.conformance.subject import require
from mmcore.runs.config import from_tree, to_tree
from mmcore.runs.plugin import OpenedPlugin

_LIGHT = """
import sys
from mmcore import plugins
from mmcore.runs.plugin import OpenedPlugin
family = OpenedPlugin.open(sys.argv[1])
for variant in family.plugin.variants:
    family.stages(variant)
sys.exit(3 if "torch" in sys.modules else 0)
"""


def stays_light(name: str) -> str:
    """Importing the plugin and asking for its stages leaves torch alone."""
    script = _LIGHT if plugins.load(name).is_family else _LIGHT.split("family =")[0] + "plugins.load(sys.argv[1])\n"
    script = script if "sys.exit" in script else script + "sys.exit(3 if 'torch' in sys.modules else 0)\n"
    done = subprocess.run(
        [sys.executable, "-c", script, name], capture_output=True, text=True, timeout=120, check=False
    )
    require(done.returncode != 3, "importing the plugin or calling stage_params imports torch; move it into the hooks")
    # The last line that is not one of an error's own details (`where:`, `do:`), which are indented.
    said = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith(" ")]
    require(done.returncode == 0, said[-1] if said else "the interpreter died")
    return ""


def nothing_stale(plugin: plugins.Plugin) -> str:
    """Nothing looks like a hook or an entry of `Family` and would never be read."""
    assert plugin.module is not None
    found = plugins.suspicions(plugin.module)
    require(not found, "\n".join(found))
    return ""


def recipes_validate(family: OpenedPlugin) -> str:
    """Every stage of every variant comes back from YAML as it went, and starts from a stage that exists."""
    from mmcore.base.yamltext import parse_yaml

    count = 0
    for variant in family.plugin.variants:
        for stage in family.stages(variant):
            again = from_tree(parse_yaml(to_yaml(to_tree(stage)), "battery"), f"{variant} {stage.name}")
            require(
                to_tree(again) == to_tree(stage),
                f"variant {variant}, stage {stage.name} changes on its way through YAML",
            )
            unknown = {stage.init.stage} - {None, *(other.name for other in family.stages(variant))}
            require(not unknown, f"variant {variant}, stage {stage.name} starts from the unknown stage {unknown}")
            count += 1
    return f"{count} stages"
