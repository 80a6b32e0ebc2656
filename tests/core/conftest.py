"""Plugins for tests: small modules with entry points in a temporary folder, as pip would leave them."""

import importlib
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Install = Callable[..., str]

RECIPE = """
from mmcore import AdamW, Constant, Data, Source, Stage

def recipe(**changes):
    fields = dict(
        number=1, name="first", title="the only stage", origin="assumed", steps=10, global_batch=4, micro_batch=2,
        data=Data(sources={"coco": Source(weight=1.0, format="COCO instances")}), optim=AdamW(lr=1e-3),
        schedule=Constant(),
    )
    return Stage(**{**fields, **changes})
"""

FAMILY = f"""
from mmcore import Family, hookimpl
{RECIPE}
@hookimpl
def family():
    return Family(name=__name__.removeprefix("fake_"), title="a fake")

@hookimpl
def stage_params(variant):
    return (recipe(),)

@hookimpl
def build_model(stage, variant):
    raise AssertionError("no test of the plugin kit builds a model")
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """`install(name, source, version=..., requires=...)` puts a plugin on the search path and returns its name."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    modules: list[str] = []

    def add(
        name: str, source: str = FAMILY, *, version: str = "1.0", requires: str = "mmcore-trainer", owner: str = ""
    ) -> str:
        module = f"fake_{(owner or name).replace('-', '_')}"
        modules.append(module)
        distribution = owner or f"mmcore-{name}"
        (site / f"{module}.py").write_text(textwrap.dedent(source))
        info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\nRequires-Dist: {requires}\n"
        )
        (info / "entry_points.txt").write_text(f"[mmcore]\n{name} = {module}\n")
        importlib.invalidate_caches()
        return name

    yield add
    for module in modules:
        sys.modules.pop(module, None)


@pytest.fixture
def family_source() -> str:
    """Source of a family with one stage, for tests that add to it."""
    return FAMILY


@pytest.fixture
def recipe_source() -> str:
    """Source of a function `recipe(**changes)`, for tests that write their own hooks."""
    return RECIPE
