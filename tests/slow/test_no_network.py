"""SECURITY.md's promise that mmcore reaches no other machine unless it is asked to: every command, every process of it.

Nothing switches the Hub off here. Each Python process loads the watch of `conftest.py`, which writes down what it saw.
"""

import inspect
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from mmcore import plugins

import conftest

FAMILIES = [plugin.name for plugin in plugins.inspect_all() if plugin.is_family and "tiny" in plugin.variants]
Silent = Callable[..., str]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def silently(tmp_path_factory: pytest.TempPathFactory) -> Silent:
    """Run a command in a folder of its own and see that it called nobody; what it said."""
    folder = tmp_path_factory.mktemp("silent")
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(
        "import sys\nfrom typing import Any\n"
        "class CALLS_OUT:\n    @staticmethod\n    def append(text):\n"
        f"        open({str(folder / 'calls')!r}, 'a').write(text + chr(10))\n"
        f"{inspect.getsource(conftest.watch_for_calls_out)}\n"
        f"open({str(folder / 'watched')!r}, 'a').write(' '.join(sys.argv) + chr(10))\n"
        "sys.addaudithook(watch_for_calls_out)\n"
    )
    path = os.pathsep.join(filter(None, [str(folder / "site"), os.environ.get("PYTHONPATH")]))
    hidden = ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "TRANSFORMERS_OFFLINE")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment |= {"PYTHONPATH": path, "MMCORE_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}

    def call(*arguments: object) -> str:
        words = [str(argument) for argument in arguments]
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
        calls = (folder / "calls").read_text() if (folder / "calls").exists() else ""
        (folder / "calls").unlink(missing_ok=True)
        assert not calls
        assert (folder / "watched").exists()
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return call


def test_the_watch_sees_a_call(silently: Silent) -> None:
    code = "import socket\ntry:\n    socket.getaddrinfo('example.invalid', 80)\nexcept OSError:\n    pass"
    with pytest.raises(AssertionError, match=r"getaddrinfo example\.invalid"):
        silently(sys.executable, "-c", code)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_command_reaches_another_machine(silently: Silent, family: str) -> None:
    mmcore = (sys.executable, "-m", "mmcore")
    stage = plugins.stages(plugins.manager(plugins.load(family), ()), plugins.load(family), "tiny")[0]
    demo = ("--plugin", family, "--stage", stage.number, "--demo")
    silently(*mmcore, "plan", *demo)
    silently(*mmcore, "train", *demo, "--max-steps", 2, "--workers", 1, "--device", "cpu", "--out", family)
    silently(*mmcore, "train", "--resume", family, "--max-steps", 3)
    if stage.validation:
        silently(*mmcore, "eval", family, "--limit", 2)
    silently(*mmcore, "report", family)
    silently(*mmcore, "export", family, "--format", "hf", "--out", f"{family}-hf")
    silently(*mmcore, "export", family, "--format", "upstream", "--out", f"{family}-upstream")


def test_what_looks_at_every_plugin_reaches_no_other_machine(silently: Silent) -> None:
    mmcore = (sys.executable, "-m", "mmcore")
    silently(*mmcore, "plugins", "list")
    silently(*mmcore, "doctor")
    silently(*mmcore, "runs")
