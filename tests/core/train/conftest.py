"""A server process that has torch and DeepSpeed imported and forks a real training process per request."""

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

TOY = Path(__file__).parent / "toy.py"


@pytest.fixture(scope="session")
def toy() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mmcore_test_toy", TOY)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mmcore_test_toy"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session", autouse=True)
def signals_are_heard() -> None:
    """A shell starts what it sends to the background deaf to Ctrl-C and Ctrl-\\, and every child inherits that."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


class Server:
    """Starts training processes; each is forked from a process that has imported what training needs."""

    def __init__(self, *, deepspeed: bool) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_LOG_LEVEL": "error", "DS_ACCELERATOR": "cpu"}
        command = [sys.executable, str(TOY), "--serve", *(["--deepspeed"] if deepspeed else [])]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.running: list[int] = []
        assert self._read() == "ready"

    def start(self, run_dir: Path, processes: int = 1, **settings: object) -> list[int]:
        """Begin to train; the process numbers by rank. Their messages go to RUN.rank.txt."""
        assert self.process.stdin is not None
        if self.running:
            # A test failed between start and finish; its exit codes must not be taken for process numbers.
            for pid in self.running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.finish()
        line = json.dumps({"run_dir": str(run_dir), "processes": processes, **settings})
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        self.running = json.loads(self._read())
        assert all(pid > 1 for pid in self.running), self.running
        return self.running

    def finish(self) -> list[int]:
        """Wait; exit codes by rank, negative for a signal."""
        codes = json.loads(self._read())
        self.running = []
        return codes

    def train(self, run_dir: Path, processes: int = 1, **settings: object) -> list[int]:
        self.start(run_dir, processes, **settings)
        return self.finish()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the server of training processes ended"
        return line.strip()


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    server = Server(deepspeed=False)
    yield server
    server.close()


@pytest.fixture(scope="session")
def zero_server() -> Iterator[Server]:
    server = Server(deepspeed=True)
    yield server
    server.close()
