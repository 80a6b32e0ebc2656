"""The plugin kit: what is found, what is refused and in which words, and in which order hooks are called."""

import sys

import pytest
from mmcore import Stage, plugins
from mmcore.errors import PluginError, RecipeError
from mmcore.version import API_VERSION, __version__


def problem_of(name: str) -> str:
    """The one-line problem under which a plugin is listed."""
    found = {plugin.name: plugin for plugin in plugins.inspect_all()}
    assert found[name].problem is not None
    return found[name].problem


def test_an_installed_family_is_found_and_gives_its_stages(install):
    plugin = plugins.load(install("owl"))
    assert plugin.label == "owl (mmcore-owl 1.0)"
    assert plugin.is_family
    assert plugin.hooks == ("family", "stage_params", "build_model")
    stages = plugins.stages(plugins.manager(plugin), plugin, "default")
    assert [stage.name for stage in stages] == ["first"]


def test_the_hooks_stand_in_the_order_of_a_run():
    assert list(plugins.known_hooks()) == [
        "family", "stage_params", "listed_sources", "annotation_formats", "conversation_templates", "metrics",
        "write_demo", "plan_notes", "data_cache", "build_model", "build_datasets", "post_train",
    ]  # fmt: skip


@pytest.mark.parametrize("name", sorted(plugins.installed()))
def test_a_family_says_who_it_is_in_one_value(name):
    plugin = plugins.load(name)
    assert plugin.family is not None
    assert (plugin.family.name, plugin.title) == (name, plugin.family.title)
    assert "tiny" in plugin.variants


def test_finding_plugins_imports_none(install):
    install("owl")
    assert "owl" in plugins.installed()
    assert "fake_owl" not in sys.modules


def test_a_run_imports_only_the_family_it_names(install):
    install("owl")
    install("bomb", "raise RuntimeError('boom')")
    plugins.manager("owl")
    assert "fake_bomb" not in sys.modules


def test_an_unknown_plugin_is_answered_with_the_nearest_name(install):
    install("griffon_like")
    with pytest.raises(PluginError, match="no plugin named 'grifon_like'") as caught:
        plugins.load("grifon_like")
    assert caught.value.exit_code == 2
    assert caught.value.do == "did you mean 'griffon_like'?"
    assert "griffon_like" in (caught.value.known or "")


def test_an_unknown_plugin_without_neighbours_is_answered_without_a_name_nobody_owns():
    with pytest.raises(PluginError) as caught:
        plugins.load("zzzz")
    assert "install the distribution that brings it" in (caught.value.do or "")
    assert "mmcore-zzzz" not in (caught.value.do or "")


def who(entries: str) -> str:
    """The source of a family that says this of itself."""
    return (
        "from mmcore import Family, hookimpl\n@hookimpl\ndef build_model(stage): return None\n"
        f"@hookimpl\ndef family(): return Family(name='bad', title='', {entries})\n"
    )


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("raise RuntimeError('boom')", "cannot be imported: RuntimeError: boom"),
        ("raise SystemExit(3)", "cannot be imported: it called exit(3)"),
        ("class Odd(BaseException): pass\nraise Odd()", "cannot be imported: Odd"),
        ("import no_such_package_of_ours", "cannot be imported: ModuleNotFoundError: No module named"),
        ("def broken(:", "cannot be imported: SyntaxError"),
        (who("requires_api='>=9'"), f"needs the mmcore API >=9, this is {API_VERSION}"),
        (who("requires_api='newest'"), "Family.requires_api 'newest' is not a version range"),
        (who("requires_api=9"), "its hook family failed: Family.requires_api: input should be a valid string, got 9"),
        (who("variants='tiny'"), "its hook family failed: Family.variants: input should be a valid tuple"),
        (who("variants=()"), "its hook family failed: Family.variants: value error, name at least one variant"),
        (who("variant=('tiny',)"), "its hook family failed: RecipeError: Family has no key 'variant' (did you mean"),
        (who("").replace("name='bad'", "name='good'"), "it calls itself 'good', its entry point 'bad'"),
        (who("").replace("return Family", "return dict"), "its hook family must return a mmcore.Family, not dict"),
        (
            who("").replace("def family", "def kin").replace("@hookimpl\ndef kin", "def kin"),
            "answers build_model but not",
        ),
        (
            "from mmcore import hookimpl\n@hookimpl\ndef stage_param(variant): return ()",
            "implements the unknown hook 'stage_param'; did you mean 'stage_params'?",
        ),
        (
            "from mmcore import hookimpl\n@hookimpl(specname='build_modle')\ndef make(stage): return None",
            "implements the unknown hook 'build_modle'; did you mean 'build_model'?",
        ),
        (
            "from mmcore import hookimpl\n@hookimpl\ndef stage_params(varient): return ()",
            "its stage_params asks for the unknown argument 'varient'; did you mean 'variant'?",
        ),
        (
            "from mmcore import hookimpl\n@hookimpl(wrapper=True)\ndef stage_params(variant): return ()",
            "a hook does not fit its specification",
        ),
        ("def build_model(stage): return None", "its build_model is not marked with @mmcore.hookimpl"),
    ],
)
def test_a_plugin_that_cannot_be_used_says_why(install, source, problem):
    install("bad", source)
    assert problem_of("bad").startswith(problem)


def test_a_broken_plugin_is_named_with_version_and_remedy(install):
    install("bad", "raise RuntimeError('boom')", version="2.3")
    with pytest.raises(PluginError) as caught:
        plugins.load("bad")
    assert caught.value.where == "plugin bad (mmcore-bad 2.3)"
    assert caught.value.do == "pip install --upgrade mmcore-bad, or pip uninstall mmcore-bad"
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_plugin_that_lacks_a_package_names_the_package(install):
    install("bad", "import no_such_package_of_ours.inner")
    with pytest.raises(PluginError) as caught:
        plugins.load("bad")
    assert "no_such_package_of_ours" in (caught.value.do or "")


def test_a_broken_neighbour_leaves_the_others_usable(install):
    install("bad", "raise SystemExit(1)")
    install("owl")
    by_name = {plugin.name: plugin for plugin in plugins.inspect_all()}
    assert by_name["bad"].problem
    assert by_name["owl"].problem is None


def test_control_c_during_an_import_is_not_swallowed(install):
    install("slow", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        plugins.inspect_all()


def test_a_plugin_for_another_core_version_is_refused_although_pip_was_bypassed(install):
    install("old", requires="mmcore-trainer<0.0.1")
    assert problem_of("old") == f"needs mmcore-trainer<0.0.1, this is {__version__}"


def test_a_plugin_that_would_bring_the_strangers_package_is_refused(install):
    install("lost", requires="mmcore>=0.1")
    assert "somebody else's; write mmcore-trainer" in (problem_of("lost") or "")


def test_a_name_that_two_packages_claim_is_refused(install):
    install("owl", owner="mmcore-owl")
    install("owl", owner="other-owl")
    assert problem_of("owl") == "mmcore-owl and other-owl both install a plugin of this name"


def test_what_a_plugin_prints_at_import_does_not_reach_standard_output(install, capsys):
    install("chatty", "print('hello')")
    plugins.inspect_all()
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "hello" in printed.err


def test_an_entry_point_that_names_a_function_is_refused(install, tmp_path):
    install("odd", "def function(): pass")
    entry = tmp_path / "site" / "mmcore_odd-1.0.dist-info" / "entry_points.txt"
    entry.write_text("[mmcore]\nodd = fake_odd:function\n")
    assert "names a function, not a module" in problem_of("odd")


# Families and extensions

WRAPPER = """
from mmcore import hookimpl

@hookimpl(wrapper=True)
def stage_params(variant):
    stages = yield
    return tuple(stage.replace(steps=stage.steps * 2) for stage in stages)
"""


def test_an_extension_may_wrap_a_recipe(install):
    install("owl")
    install("longer", WRAPPER)
    owl = plugins.load("owl")
    (plain,) = plugins.stages(plugins.manager("owl"), owl, "default")
    (longer,) = plugins.stages(plugins.manager("owl", ["longer"]), owl, "default")
    assert (plain.steps, longer.steps) == (10, 20)


def test_a_wrapped_recipe_is_checked_like_any_other(install):
    install("owl")
    install("wild", WRAPPER.replace("steps=stage.steps * 2", "global_batch=3"))
    with pytest.raises(RecipeError, match="global_batch 3 is not a multiple"):
        plugins.stages(plugins.manager("owl", ["wild"]), plugins.load("owl"), "default")


def test_each_manager_is_fresh(install):
    install("owl")
    install("longer", WRAPPER)
    plugins.manager("owl", ["longer"])
    (stage,) = plugins.stages(plugins.manager("owl"), plugins.load("owl"), "default")
    assert stage.steps == 10


def test_an_extension_that_only_wraps_build_model_is_no_family(install):
    install("wrap", "from mmcore import hookimpl\n@hookimpl(wrapper=True)\ndef build_model():\n    return (yield)\n")
    assert not plugins.load("wrap").is_family


def test_an_extension_cannot_be_run_as_a_family(install):
    install("longer", WRAPPER)
    with pytest.raises(PluginError, match="longer brings no model") as caught:
        plugins.manager("longer")
    assert caught.value.do == "it extends another family: --plugin FAMILY --with longer"


def test_a_family_cannot_be_added_to_another(install):
    install("owl")
    install("elk")
    with pytest.raises(PluginError, match="elk is a family, not an extension"):
        plugins.manager("owl", ["elk"])


def test_an_extension_whose_recipe_would_never_be_asked_is_refused(install, recipe_source):
    install("owl")
    install("mute", f"from mmcore import hookimpl\n{recipe_source}\n@hookimpl\ndef stage_params(): return (recipe(),)")
    with pytest.raises(PluginError, match="stage_params is never asked") as caught:
        plugins.manager("owl", ["mute"])
    assert "wrapper=True" in (caught.value.do or "")


def test_an_extension_that_says_who_it_is_is_told_that_nobody_asks(install):
    install("owl")
    install(
        "more", "from mmcore import Family, hookimpl\n@hookimpl\ndef family(): return Family(name='more', title='')"
    )
    with pytest.raises(PluginError, match="family is never asked"):
        plugins.manager("owl", ["more"])


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("TITLE = 'an owl'", "TITLE is read by nobody; say it in the hook family: Family(title=...)"),
        ("REQUIRES_API = '>=0.1'", "Family(requires_api=...)"),
        ("def write_dmeo(root): pass", "write_dmeo is no hook and would never be called; did you mean 'write_demo'?"),
        ("def plan_note(stage): pass", "did you mean 'plan_notes'?"),
    ],
)
def test_what_nobody_would_read_is_suspicious(install, family_source, line, told):
    install("owl", f"{family_source}\n{line}\n")
    (found,) = plugins.suspicions(plugins.load("owl").module)
    assert told in found


def test_helpers_of_a_plugin_are_not_suspicious(install, family_source):
    own = "import json\nfrom pathlib import Path\nSIZES = (1, 2)\ndef _stages(): pass\ndef read_file(): pass\n"
    install("owl", f"{own}{family_source}")
    assert plugins.suspicions(plugins.load("owl").module) == []


def test_a_missing_extension_is_blamed_on_its_option(install):
    install("owl")
    with pytest.raises(PluginError) as caught:
        plugins.manager("owl", ["nothing"])
    assert caught.value.where == "--with nothing"


def test_an_extension_named_twice_counts_once(install):
    install("owl")
    install("longer", WRAPPER)
    (stage,) = plugins.stages(plugins.manager("owl", ["longer", "longer"]), plugins.load("owl"), "default")
    assert stage.steps == 20


def test_after_training_the_family_comes_first_then_the_extensions_in_order(install, family_source):
    note = "\nfrom mmcore import hookimpl\n@hookimpl\ndef post_train(run): run.append('{}')\n"
    install("owl", family_source + note.format("owl"))
    for name in ("b", "a"):
        install(name, note.format(name))
    calls: list[str] = []
    hooks = plugins.manager("owl", ["b", "a"])
    plugins.call(hooks, plugins.load("owl"), "post_train", run=calls)
    assert calls == ["owl", "b", "a"]


def test_the_answers_of_family_and_extensions_are_joined(install, family_source):
    give = "\nfrom mmcore import hookimpl\n@hookimpl\ndef build_datasets(split): return '{} ' + split\n"
    install("owl", family_source + give.format("owl"))
    install("more", give.format("more"))
    hooks = plugins.manager("owl", ["more"])
    answers = plugins.call(hooks, plugins.load("owl"), "build_datasets", stage=None, split="val", context=None)
    assert answers == ["owl val", "more val"]


# What hooks return and raise


@pytest.mark.parametrize(
    ("returned", "described"),
    [
        ("None", "not nothing"),
        ("()", "not tuple of nothing"),
        ("recipe()", "not Stage"),
        ("(recipe() for _ in range(1))", "not generator"),
        ("['pretrain', recipe()]", "not list of Stage, str"),
        ("{1: recipe()}", "not dict"),
    ],
)
def test_stage_params_of_a_wrong_type_is_refused(install, family_source, returned, described):
    install("owl", family_source.replace("return (recipe(),)", f"return {returned}"))
    owl = plugins.load("owl")
    with pytest.raises(PluginError, match="stage_params must return") as caught:
        plugins.stages(plugins.manager(owl), owl, "default")
    assert described in caught.value.what


@pytest.mark.parametrize("second", ["recipe(name='second')", "recipe(number=2)", "recipe(number=2, name='1')"])
def test_stages_that_share_a_number_or_name_are_refused(install, family_source, second):
    install("owl", family_source.replace("(recipe(),)", f"(recipe(), {second})"))
    owl = plugins.load("owl")
    with pytest.raises(PluginError, match="share the number or name"):
        plugins.stages(plugins.manager(owl), owl, "default")


def test_a_recipe_with_an_impossible_number_names_the_key(install, family_source):
    install("owl", family_source.replace("AdamW(lr=1e-3)", "AdamW(lr=-1.0)"))
    owl = plugins.load("owl")
    with pytest.raises(PluginError, match=r"stage_params failed: AdamW\.lr: input should be greater than 0, got -1"):
        plugins.stages(plugins.manager(owl), owl, "default")


@pytest.mark.parametrize("raised", ["ValueError('no such file')", "SystemExit(1)", "KeyError('x')"])
def test_a_hook_that_raises_is_named_with_its_plugin(install, family_source, raised):
    install("owl", family_source.replace("return (recipe(),)", f"raise {raised}"), version="4.5")
    owl = plugins.load("owl")
    with pytest.raises(PluginError, match="stage_params failed: ") as caught:
        plugins.stages(plugins.manager(owl), owl, "default")
    assert caught.value.where == "plugin owl (mmcore-owl 4.5)"


def test_an_extension_that_raises_is_blamed_instead_of_the_family(install):
    install("owl")
    install("wild", WRAPPER.replace("stage.steps * 2", "1 // 0"), version="0.9")
    with pytest.raises(PluginError, match="ZeroDivisionError") as caught:
        plugins.stages(plugins.manager("owl", ["wild"]), plugins.load("owl"), "default")
    assert caught.value.where == "plugin wild (mmcore-wild 0.9)"


def test_a_users_mistake_passes_through_a_hook_unchanged(install, family_source):
    raising = "from mmcore.errors import RecipeError; raise RecipeError('mine')"
    install("owl", family_source.replace("return (recipe(),)", raising))
    owl = plugins.load("owl")
    with pytest.raises(RecipeError, match=r"^mine$"):
        plugins.stages(plugins.manager(owl), owl, "default")


def test_a_family_without_stages_is_told_which_hook_is_missing(install):
    install("owl", who("").replace("name='bad'", "name='owl'"))
    owl = plugins.load("owl")
    with pytest.raises(PluginError, match="does not implement stage_params"):
        plugins.stages(plugins.manager(owl), owl, "default")


def test_an_unknown_variant_is_answered_with_the_nearest(install, family_source):
    install("owl", family_source.replace('title="a fake"', 'title="", variants=("large", "tiny")'))
    owl = plugins.load("owl")
    with pytest.raises(RecipeError, match="owl has no variant 'tinny'") as caught:
        plugins.stages(plugins.manager(owl), owl, "tinny")
    assert caught.value.do == "did you mean 'tiny'?"
    assert caught.value.known == "large, tiny"


def test_a_stage_is_found_by_number_or_name_and_a_wrong_one_is_answered(install):
    owl = plugins.load(install("owl"))
    stages = plugins.stages(plugins.manager(owl), owl, "default")
    assert plugins.find_stage(stages, "1", owl) is plugins.find_stage(stages, "first", owl)
    with pytest.raises(RecipeError, match="owl has no stage fist") as caught:
        plugins.find_stage(stages, "fist", owl)
    assert caught.value.do == "did you mean 'first'?"
    assert caught.value.known == "1 first"


def test_tracing_prints_hook_calls_with_the_plugins_that_answer(install, monkeypatch, capsys):
    monkeypatch.setenv("MMCORE_TRACE", "1")
    install("owl")
    install("longer", WRAPPER)
    plugins.stages(plugins.manager("owl", ["longer"]), plugins.load("owl"), "default")
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["[mmcore] stage_params(variant) -> longer, owl", "[mmcore] stage_params done"]


def test_an_implementation_may_take_fewer_arguments_than_its_hook(install, family_source):
    install("owl", family_source.replace("def stage_params(variant)", "def stage_params()"))
    owl = plugins.load("owl")
    (stage,) = plugins.stages(plugins.manager(owl), owl, "default")
    assert isinstance(stage, Stage)
