"""No leaf of a recipe is there for show: the core reads it, or families do, which the conformance check asks."""

import ast
import inspect
from pathlib import Path

import mmcore
import pytest
from mmcore.contract import mixture, recipe
from mmcore.contract.entry import Recipe

CORE = Path(mmcore.__file__).parent
FAMILIES = {"model", "transform", "wordings"}
"""Groups that only families read; `mmcore.conformance.recipe_leaves` perturbs them."""


def read_names() -> set[str]:
    """Names of attributes that any code takes, and keywords that it matches."""
    found = set()
    for path in CORE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                found.add(node.attr)
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "getattr":
                found |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
            elif isinstance(node, ast.MatchClass):
                found |= set(node.kwd_attrs)
    return found


READ = read_names()
PARTS = dict(inspect.getmembers(recipe, inspect.isclass) + inspect.getmembers(mixture, inspect.isclass))


@pytest.mark.parametrize("part", [part for part in PARTS.values() if issubclass(part, Recipe) and part is not Recipe])
def test_every_leaf_has_a_reader(part):
    assert not set(part.model_fields) - READ - FAMILIES
