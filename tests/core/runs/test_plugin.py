"""What plugins add to the core's lists: formats, templates, metrics, sample data, lines of a plan."""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmcore.contract.protocols import Datasets, Evaluator
from mmcore.contract.recipe import AdamW, Constant, Data, Source, Stage, Validation
from mmcore.errors import PluginError, RecipeError
from mmcore.language.conversation_templates import TEMPLATES, add_templates, template
from mmcore.runs.build import _with_metrics
from mmcore.runs.checks import check_metrics
from mmcore.runs.plugin import OpenedPlugin

HOOK = "\nfrom mmcore import hookimpl\n@hookimpl\ndef {}\n"


def opened(install, family_source: str, *extensions: str, own: str = "") -> OpenedPlugin:
    """The fake family with these implementations in extensions, and perhaps one of its own."""
    install("owl", family_source + (HOOK.format(own) if own else ""))
    names = [f"more{number}" for number in range(len(extensions))]
    for name, source in zip(names, extensions, strict=True):
        install(name, HOOK.format(source))
    return OpenedPlugin.open("owl", names)


def test_what_family_and_extensions_bring_is_joined_family_first(install, family_source):
    plugin = opened(install, family_source, "metrics(): return {'b': max}", own="metrics(): return {'a': len}")
    assert plugin.metrics() == {"a": len, "b": max}
    assert plugin.family.name == "owl"


def test_nobody_needs_to_bring_anything(install, family_source):
    plugin = opened(install, family_source)
    assert (plugin.metrics(), plugin.templates(), plugin.formats()) == ({}, {}, ())
    assert plugin.notes(None, None) == []  # type: ignore[arg-type]
    assert plugin.call("data_cache", stage=None, context=None, dtype=None) is None


@pytest.mark.parametrize(
    ("first", "second", "ask", "told"),
    [
        ("metrics(): return {'a': len}", "metrics(): return {'a': max}", "metrics", "gives 'a' twice"),
        ("metrics(): return ['a']", "post_train(run): pass", "metrics", "gives a list, not a mapping"),
        ("annotation_formats(): return 'coco'", "post_train(run): pass", "formats", "gives a str, not a sequence"),
        ("annotation_formats(): return [1]", "post_train(run): pass", "formats", "gives a int, not a Format"),
    ],
)
def test_an_answer_of_a_wrong_kind_names_hook_and_plugin(install, family_source, first, second, ask, told):
    plugin = opened(install, family_source, first, second)
    with pytest.raises(PluginError, match=told) as caught:
        getattr(plugin, ask)()
    assert "more0 (mmcore-more0 1.0)" in (caught.value.where or "")


def test_sample_data_are_the_familys_and_every_extensions(install, family_source, tmp_path):
    plugin = opened(
        install,
        family_source,
        "write_demo(root): (root / 'b').touch()",
        own="write_demo(root): (root / 'a').touch()",
    )
    plugin.write_demo(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["a", "b"]


def test_a_family_without_sample_data_has_the_cores(install, family_source, tmp_path, monkeypatch):
    plugin = opened(install, family_source, "write_demo(root): (root / 'b').touch()")
    written = SimpleNamespace(write_demo=lambda root: (root / "core").touch())
    monkeypatch.setitem(sys.modules, "mmcore.data.demo.write", written)
    plugin.write_demo(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["b", "core"]


# Metrics


class Scores(Evaluator):
    """Gives its items back."""

    metric_names = ("mean",)

    def summarise(self, items):
        return {"mean": sum(item["score"] for item in items) / len(items)}


def stage(*metrics: str, best: str | None = None) -> Stage:
    return Stage(
        number=1, name="one", title="", origin="", steps=1, global_batch=1, micro_batch=1,
        data=Data(sources={"a": Source(weight=1.0, format="any")}), optim=AdamW(lr=1.0), schedule=Constant(),
        validation={"val": Validation(metrics=metrics), "other": Validation()}, best_metric=best,
    )  # fmt: skip


ITEMS = [{"image_id": 1, "score": 1.0}, {"image_id": 2, "score": 0.0}, {"image_id": 2, "score": 0.0}]
METRICS = "metrics(): return {'count': len, 'best': lambda items: max(item['score'] for item in items)}"


@pytest.mark.parametrize(
    ("metrics", "best", "added"),
    [((), None, {}), (("count", "mean"), None, {"count": 2.0}), ((), "val/best", {"best": 1.0})],
)
def test_a_metric_is_computed_where_the_recipe_names_it_each_record_once(install, family_source, metrics, best, added):
    plugin = opened(install, family_source, METRICS)
    recipe = stage(*metrics, best=best)
    evaluators = _with_metrics({"val": Scores, "other": Scores}, plugin, recipe)
    assert check_metrics(recipe, Datasets({}, {}, evaluators)) is None
    found = evaluators["val"]().summarise(ITEMS)
    assert {name: value for name, value in found.items() if name != "mean"} == added
    assert set(evaluators["other"]().summarise(ITEMS)) == {"mean"}


def test_a_metric_that_nobody_brings_is_refused_with_the_nearest(install, family_source):
    recipe = stage("cuont")
    evaluators = _with_metrics({"val": Scores}, opened(install, family_source, METRICS), recipe)
    with pytest.raises(RecipeError, match="the evaluation gives no 'cuont'"):
        check_metrics(recipe, Datasets({}, {}, evaluators))


def test_what_the_evaluator_writes_stays_its_own(tmp_path: Path):
    from mmcore.evaluate.metrics import WithMetrics

    class Writing(Scores):
        category_ap = {"bbox": {"cat": 1.0}}  # noqa: RUF012

        def write(self, items, folder):
            (folder / "picture").touch()

    evaluator = WithMetrics(partial(Writing), {"count": len})
    assert evaluator.results(ITEMS) is None
    assert evaluator.category_ap == {"bbox": {"cat": 1.0}}
    evaluator.write(ITEMS, tmp_path)
    assert (tmp_path / "picture").exists()


# Templates


def test_a_template_of_a_plugin_is_known_by_its_name():
    own = replace(TEMPLATES["vicuna_v1"], name="test_owl")
    add_templates({"test_owl": own})
    add_templates({"test_owl": own})
    assert template("test_owl") is own


@pytest.mark.parametrize("name", ["vicuna_v1", "llama3"])
def test_a_name_of_the_core_is_not_given_away(name):
    with pytest.raises(PluginError, match=f"another conversation template '{name}'"):
        add_templates({name: TEMPLATES["plain"]})
