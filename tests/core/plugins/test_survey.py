"""Plugins that hang, end or crash the process that imports them are named, and take nobody with them."""

import time

import pytest
from click.testing import CliRunner
from mmcore.cli import cli
from mmcore.plugins import survey as survey_module
from mmcore.plugins.survey import survey


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import time; time.sleep(600)", "does not return within 6 s when it is imported"),
        ("import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)", "does not return"),
        ("import os; os._exit(0)", "ends the process with exit code 0"),
        ("import os; os._exit(7)", "ends the process with exit code 7"),
        ("import os; os.kill(os.getpid(), 11)", "is killed by SIGSEGV"),
        ("import sys; sys.exit(0)", "it called exit(0)"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("import os; os.write(1, b'{\"name\": \"liar\"}\\n'); print('noise'); x = 1 / 0", "ZeroDivisionError"),
        ("class Odd:\n    def __getattr__(self, name): raise OSError('no ' + name)\nodd = Odd()", None),
    ],
)
def test_the_culprit_is_named_and_the_others_are_there(install, family_source, source: str, words: str | None) -> None:
    for name in ("ant", "zebra"):
        install(name, family_source)
    install("mole", source)
    began = time.monotonic()
    found = {plugin["name"]: plugin["problem"] for plugin in survey(deadline_s=6.0 if "sleep" in source else 60.0)}
    assert time.monotonic() - began < 30
    assert words is None or words in str(found["mole"])
    assert {found[name] for name in ("ant", "zebra")} == {None}


def test_list_and_doctor_outlive_a_plugin_that_ends_the_process(install, family_source, monkeypatch) -> None:
    monkeypatch.setattr(survey_module, "DEADLINE_S", 60.0)
    install("ant", family_source)
    install("mole", "import os; os._exit(0)")
    listed = CliRunner().invoke(cli, ["plugins", "list"])
    assert listed.exit_code == 0
    assert "ant" in listed.output
    assert "mole" in listed.output
    assert "ends the process" in listed.output
    assert "plugin mole" in CliRunner().invoke(cli, ["doctor"]).output


def test_a_title_cannot_steer_the_terminal(install) -> None:
    install("mole", "raise ValueError('\\x1b]0;owned\\x07\\x1b[2J')")
    listed = CliRunner().invoke(cli, ["plugins", "list"]).output
    assert "\x1b" not in listed
    assert "owned" in listed
