"""Start the processes of a run: N on this machine, or those of a host file through DeepSpeed's launcher.

Each process runs the same command again with its rank in the environment. The first one speaks to the terminal; the
others' messages are kept aside and shown when one of them is the first to fail. A signal is passed on once, so that
all finish their step and save; when this process is killed, the kernel tells the others.
"""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any

from mmcore.base.distributed import RANK
from mmcore.errors import LaunchError

USAGE_S = 10.0
"""How much later than another the first process may find that the usage is wrong."""
GRACE_S = 30.0
"""How long the others may take to end after one has failed."""
_PR_SET_PDEATHSIG = 1


def launch(arguments: Sequence[str], *, nproc: int = 1, hostfile: Path | None = None) -> None:
    """Run `mmcore` with these arguments on several processes and wait for them; returns when all succeeded.

    Args:
        arguments: of the command line, without what starts processes.
        nproc: processes on this machine; with a host file, on each of its machines (1 takes its slots).
        hostfile: machines in DeepSpeed's form, `name slots=4` a line.

    Raises:
        LaunchError: another process than the first failed first, with its last words; or the host file is unusable.
        SystemExit: with the first process's exit code when it failed, having said why, or 128 + signal.
    """
    if hostfile is not None:
        _through_deepspeed(hostfile, nproc, arguments)
    else:
        spawn([sys.executable, "-m", "mmcore", *arguments], nproc)


def spawn(command: Sequence[str], nproc: int) -> None:
    """Run one command as `nproc` processes on this machine; see `launch`."""
    with tempfile.TemporaryDirectory(prefix="mmcore-launch-") as folder:
        errors = [Path(folder) / f"rank-{rank}.txt" for rank in range(nproc)]
        processes = _start(command, errors)
        with _Forward(processes) as forward:
            failed = _wait(processes)
        if failed is None:
            return
        code = processes[failed].returncode
        if forward.received and code in (128 + forward.received, -forward.received):
            raise SystemExit(128 + forward.received)
        if failed == 0 and code > 0:
            raise SystemExit(code)
        raise LaunchError(
            f"process {failed} of {nproc} {_how(code)}; the others were ended",
            where=f"rank {failed}",
            known=_last_words(errors[failed]) if failed else None,
            do="see what it said; a process killed by SIGKILL often ran out of memory, see `mmcore doctor`",
        )


def _start(command: Sequence[str], errors: Sequence[Path]) -> list[subprocess.Popen[bytes]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // len(errors))))
    for rank, path in enumerate(errors):
        environment = {
            **os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(len(errors)),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": threads,
        }  # fmt: skip
        output: IO[bytes] | None = None if rank == 0 else open(path, "wb")  # noqa: SIM115 closed below
        processes.append(
            subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Control-C reaches only this process, which passes it on once.
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        )
        if output is not None:
            output.close()
    return processes


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """Wait for all; the first one that failed, or None. Once one has failed the others are ended."""
    while True:
        codes = [process.poll() for process in processes]
        failed = [rank for rank, code in enumerate(codes) if code]
        if failed:
            first = failed[0]
            if codes[first] == 2:
                # Wrong usage is found by all alike; the first process is about to say so on the terminal.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    first = 0 if processes[0].wait(USAGE_S) == 2 else first
            _end(processes)
            return first
        if all(code == 0 for code in codes):
            return None
        time.sleep(0.05)


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End what still runs: first by asking, then by force. A process waiting for a lost one cannot answer."""
    deadline = time.monotonic() + GRACE_S
    # Processes stopped by the same signal as the failed one are saving; give them the time before asking again.
    saving = any(process.poll() in (130, 143) for process in processes)
    for process in processes:
        if process.poll() is None and not saving:
            process.terminate()
            deadline = min(deadline, time.monotonic() + 5.0)
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class _Forward:
    """Passes SIGTERM and SIGINT on to the processes."""

    def __init__(self, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        self.processes, self.received = processes, 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_Forward":
        self._before = {number: signal.signal(number, self._pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or number
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(number)


def _how(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"


def _last_words(path: Path) -> str:
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return "\n         ".join(lines[-12:]) or "it said nothing"


def _through_deepspeed(hostfile: Path, nproc: int, arguments: Sequence[str]) -> None:
    if not hostfile.is_file():
        raise LaunchError(f"there is no host file {hostfile}", where="--hostfile", do="one `name slots=4` a line")
    command = [sys.executable, "-m", "deepspeed.launcher.runner", "--hostfile", str(hostfile)]
    command += ["--num_gpus", str(nproc)] if nproc > 1 else []
    command += ["--no_local_rank", "--module", "mmcore", *arguments]
    environment = {key: value for key, value in os.environ.items() if key not in RANK}
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    with _Forward([process]) as forward:
        code = process.wait()
    if forward.received:
        raise SystemExit(128 + forward.received)
    if code:
        raise LaunchError(
            f"DeepSpeed's launcher failed with exit code {code}",
            where=f"--hostfile {hostfile}",
            do="see its message above; it needs ssh without a password to every host, and pdsh",
        )
