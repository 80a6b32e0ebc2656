"""Start the processes of a run: N on this machine, or those of a host file through DeepSpeed's launcher.

Each process runs the same command again with its rank in the environment. The first one speaks to the terminal; the
others' messages are kept aside and shown when one of them is the first to fail. A signal is passed on once, so that
all finish their step and save; when this process is killed, the kernel tells the others.
"""

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

from mmcore.errors import LaunchError
from mmcore.train.distributed import RANK, place

GRACE_S = 30.0
"""How long the others may take to end after one has failed."""
_PR_SET_PDEATHSIG = 1


def needed(nproc: int, hostfile: Path | None) -> bool:
    """Whether this process is to start others, and is not itself one of them."""
    started = place().world_size > 1 or "MMCORE_LAUNCHED" in os.environ
    return not started and (nproc > 1 or hostfile is not None)


def launch(nproc: int, hostfile: Path | None = None, arguments: Sequence[str] | None = None) -> int:
    """Run `mmcore` with these arguments on several processes and wait for them.

    Args:
        nproc: processes on this machine, or on each one of `hostfile` (1 takes its slots).
        hostfile: machines in DeepSpeed's form, `name slots=4` a line.
        arguments: of the command line; by default those of this process.

    Returns:
        The exit code: 0, 130 or 143 after a signal, or the first process's when it failed first (it has said why).
    Raises:
        LaunchError: another process failed first, with its message; or the host file cannot be used.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if hostfile is not None:
        return _through_deepspeed(hostfile, nproc, arguments)
    command = [sys.executable, "-m", "mmcore", *arguments]
    return spawn(command, nproc)


def spawn(command: Sequence[str], nproc: int) -> int:
    """Run one command as `nproc` processes on this machine; see `launch`."""
    with tempfile.TemporaryDirectory(prefix="mmcore-launch-") as folder:
        errors = [Path(folder) / f"rank-{rank}.txt" for rank in range(nproc)]
        processes = _start(command, errors)
        with _Forward(processes) as forward:
            failed = _wait(processes)
        codes = [process.returncode for process in processes]
        if failed is None:
            return 0
        code = _exit_code(codes[failed])
        if forward.received and (code in (130, 143) or -codes[failed] == forward.received):
            return 128 + forward.received
        if failed == 0:
            return code
        raise LaunchError(
            f"process {failed} of {nproc} {_how(codes[failed])}; the others were ended",
            where=f"rank {failed}",
            known=_last_words(errors[failed]),
            do="see its message above; `mmcore doctor` checks the machine",
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
            # The first process's message is on the terminal; of several that failed together it counts as the first.
            time.sleep(0.2)
            first = 0 if processes[0].poll() else failed[0]
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


def _exit_code(code: int) -> int:
    return 128 - code if code < 0 else code


def _how(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"


def _last_words(path: Path) -> str:
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return "\n         ".join(lines[-12:]) or "it said nothing"


def _through_deepspeed(hostfile: Path, nproc: int, arguments: Sequence[str]) -> int:
    if not hostfile.is_file():
        raise LaunchError(f"there is no host file {hostfile}", where="--hostfile", do="one `name slots=4` a line")
    command = [sys.executable, "-m", "deepspeed.launcher.runner", "--hostfile", str(hostfile)]
    command += ["--num_gpus", str(nproc)] if nproc > 1 else []
    command += ["--no_local_rank", "--module", "mmcore", *arguments]
    environment = {key: value for key, value in os.environ.items() if key not in RANK}
    process = subprocess.Popen(command, env={**environment, "MMCORE_LAUNCHED": "1"})
    with _Forward([process]) as forward:
        code = process.wait()
    if forward.received:
        return 128 + forward.received
    if code:
        raise LaunchError(
            f"DeepSpeed's launcher failed with exit code {code}",
            where=f"--hostfile {hostfile}",
            do="see its message above; it needs ssh without a password to every host, and pdsh or --launcher's tool",
        )
    return 0
