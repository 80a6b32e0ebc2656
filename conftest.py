"""What tests of the core and of every plugin share: reference data where there are some, and the command line.

Wherever the core annotates an array, its shape and type are checked at run time, in every test of this process. No test
may speak to another machine: mmcore promises to do so only where a Hub name asks for it.
"""

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from beartype import beartype
from jaxtyping import AbstractArray, install_import_hook


def check_shapes(function: Any) -> Any:
    """The function, with its arguments and result checked wherever an annotation speaks of an array.

    Other annotations are the type checker's business and are left alone.
    """
    if not isinstance(function, type):
        told = {name: hint for name, hint in function.__annotations__.items() if _speaks_of_arrays(hint)}
        if not told:
            return function
        function.__annotations__ = told
    return beartype(function)


def _speaks_of_arrays(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    return any(_speaks_of_arrays(part) for part in getattr(hint, "__args__", ()))


def modules_with_arrays() -> list[str]:
    """The core's modules that annotate arrays; the hook wraps every function, and the others would only be slower."""
    (folder,) = importlib.util.find_spec("mmcore").submodule_search_locations  # type: ignore[union-attr, misc]
    root = Path(folder)
    files = [path for path in root.rglob("*.py") if "from jaxtyping import" in path.read_text(encoding="utf-8")]
    return [".".join(path.relative_to(root.parent).with_suffix("").parts) for path in files]


install_import_hook(modules_with_arrays(), "conftest.check_shapes")

from mmcore.cli import main  # noqa: E402  # after the hook, which sees what is imported from here on

Run = Callable[..., tuple[int, str]]
CALLS_OUT: list[str] = []
"""Attempts of this process to reach another machine."""


def watch_for_calls_out(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: nobody is asked for an address, and nothing connected to, but this machine itself."""
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    name = host.decode() if isinstance(host, bytes) else host
    if name not in (None, "", "localhost", "127.0.0.1", "::1", "0.0.0.0", "::"):
        CALLS_OUT.append(f"{event} {name}")
        raise OSError(f"tests reach no other machine: {event} {name}")


sys.addaudithook(watch_for_calls_out)


@pytest.fixture(autouse=True)
def no_call_out() -> Iterator[None]:
    """Fails a test that tried to reach another machine, whatever became of the attempt."""
    before = len(CALLS_OUT)
    yield
    assert not CALLS_OUT[before:]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder `shared` beside the checkout, or $MMCORE_SHARED; tests that need it are skipped elsewhere."""
    folder = Path(os.environ.get("MMCORE_SHARED") or Path(__file__).resolve().parents[1] / "shared")
    if not folder.is_dir():
        pytest.skip(f"no reference data at {folder}; set MMCORE_SHARED to run this test")
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run a command in an empty folder; its exit code and everything it said, which is never a traceback."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MMCORE_CACHE", str(tmp_path / "cache"))

    def call(*arguments: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        code = caught.value.code
        assert isinstance(code, int)
        return code, said.out + said.err

    return call


PDSH = """#!{python}
import subprocess, sys
arguments = sys.argv[1:]
hosts = arguments[arguments.index("-w") + 1].split(",")
command = " ".join(arguments[arguments.index("-w") + 2 :])
running = []
for number, host in enumerate(hosts):
    text = command.replace("%n", str(number)).replace("%h", host)
    shell = f"set -o pipefail; ({{text}}) 2>&1 | sed -u 's/^/{{host}}: /'"
    running.append(subprocess.Popen(["bash", "-c", shell]))
sys.exit(max(process.wait() != 0 for process in running))
"""
"""Stands in for pdsh where the hosts are names of this machine: every line bears its host's name."""


@pytest.fixture
def two_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host file of two names of this machine, and what DeepSpeed's launcher reaches them with."""
    tools, hosts = tmp_path / "bin", tmp_path / "hosts"
    tools.mkdir()
    (tools / "pdsh").write_text(PDSH.format(python=sys.executable))
    (tools / "ssh").write_text("#!/bin/sh\nhostname\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    hosts.write_text("localhost slots=1\n127.0.0.1 slots=1\n")
    monkeypatch.setenv("PATH", str(tools), prepend=os.pathsep)
    return hosts
