"""What the author of a plugin is told: file and line, one cause once, and remedies for the one who can correct it."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from mmcore import plugins
from mmcore.cli import main
from mmcore.conformance.battery import _battery, battery, place_of
from mmcore.errors import PluginError
from mmcore.plugins.explain import upgrade
from mmcore.runs.opened import without_missing
from mmcore.train.objective import checked
from torch import nn


def said_by(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit):
        main(arguments)
    return capsys.readouterr().out


@pytest.fixture
def failing(install, family_source) -> Path:
    """A family whose import works and whose recipe does not."""
    install("owl", family_source.replace("return (recipe(),)", "raise RuntimeError('boom')"))
    import fake_owl  # type: ignore[import-not-found]

    return Path(fake_owl.__file__)


def test_a_failure_tells_file_and_line_and_with_debug_the_traceback(failing, capsys):
    line = failing.read_text().splitlines().index("    raise RuntimeError('boom')") + 1
    said = said_by(capsys, "plugins", "check", "owl")
    assert f"at {failing}:{line}" in said
    assert "Traceback" not in said
    assert "Traceback" in said_by(capsys, "plugins", "check", "owl", "--debug")
    told = json.loads(said_by(capsys, "plugins", "check", "owl", "--json"))["checks"]
    assert told[-1]["place"] == f"{failing}:{line}"


def test_one_cause_is_told_once(failing, monkeypatch):
    outcomes = [one for one in _battery("owl") if not one.ok]
    assert "boom" in outcomes[-1].detail
    other = replace(outcomes[-1], check="a later check")
    monkeypatch.setattr(sys.modules["mmcore.conformance.battery"], "_battery", lambda name: iter([*outcomes, other]))
    assert list(battery("owl"))[-1].detail == f"for the same reason as: {outcomes[-1].check}"


def test_an_editable_plugin_is_corrected_and_others_are_replaced(install, tmp_path):
    install("owl")
    assert upgrade("mmcore-owl").startswith("pip install --upgrade mmcore-owl")
    (info,) = (tmp_path / "site").glob("mmcore_owl-*.dist-info")
    told = {"url": f"file://{tmp_path}/my%20owl", "dir_info": {"editable": True}}
    (info / "direct_url.json").write_text(json.dumps(told))
    assert upgrade("mmcore-owl", "owl").startswith(
        f"correct it in {tmp_path}/my owl; `mmcore plugins check owl --debug`"
    )


@pytest.mark.parametrize(
    ("raised", "remedy"),
    [
        ("raise RuntimeError('boom')", "correct it at {file}:{line}; --debug shows the traceback"),
        ("import exotic.parts", "pip install exotic, and name it among the dependencies of {folder}/pyproject.toml"),
    ],
)
def test_the_author_of_a_hook_that_raises_is_told_the_line(install, family_source, tmp_path, raised, remedy):
    install("owl", family_source.replace("return (recipe(),)", raised))
    site = tmp_path / "site"
    owl = plugins.load("owl")
    for editable in (False, True):
        if editable:
            told = {"url": f"file://{site}", "dir_info": {"editable": True}}
            (next(site.glob("mmcore_owl-*.dist-info")) / "direct_url.json").write_text(json.dumps(told))
        with pytest.raises(PluginError, match="stage_params failed: ") as caught:
            plugins.stages(plugins.manager(owl), owl, "default")
        assert ("report it to the plugin's author" in str(caught.value.do)) is not editable
    file = site / "fake_owl.py"
    line = file.read_text().splitlines().index(f"    {raised}") + 1
    assert caught.value.do == remedy.format(file=file, line=line, folder=site)


def test_a_forward_of_the_wrong_type_is_told_the_same_in_training():
    with pytest.raises(PluginError, match="forward returns dict, not Losses") as caught:
        checked({"loss": 1}, nn.Identity())
    assert "Identity.forward" in str(caught.value.where)


def test_a_run_opens_without_an_extension_that_is_not_here(install, capsys):
    install("more", "from mmcore import hookimpl\n@hookimpl\ndef post_train(run): pass\n")
    replaced: list[tuple[str, ...]] = []

    class Told:
        extensions = ("more", "gone")

        def replace(self, extensions: tuple[str, ...]) -> None:
            replaced.append(extensions)

    without_missing(Told())  # type: ignore[arg-type]
    assert replaced == [("more",)]
    assert "the extension gone is not installed" in capsys.readouterr().err


def test_the_place_of_a_syntax_error_is_the_line_itself():
    error = SyntaxError("bad", ("plugin.py", 7, 1, "x ="))
    assert place_of(error) == "plugin.py:7"
