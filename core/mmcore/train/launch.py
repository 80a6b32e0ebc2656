"""Start the processes of a run: N on this machine, or those of a host file through DeepSpeed's launcher.

Each process runs the same command again with its rank in the environment. The first one speaks to the terminal; why a
process failed it leaves in a file, and the first cause in time is told with its rank. A signal is passed on, so that
all finish their step and save; who does not come to that is ended after a deadline, and when this process is killed,
a small one beside it ends the others.
"""

import contextlib
import ctypes
import math
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
from typing import IO, Any, NoReturn

from mmcore.base.distributed import RANK
from mmcore.base.failure import FOLDER_VARIABLE, collect
from mmcore.base.signals import SIGNALS
from mmcore.base.terminal import tell
from mmcore.errors import LaunchError
from mmcore.train.heard import Heard

USAGE_S = 10.0
"""How much later than another the first process may find that the usage is wrong."""
ECHO_S = 15.0
"""How long after one that only lost another process that other one may take to end: its connections close first."""
GRACE_S = 30.0
"""How long the others may take to end after one has failed."""
ORPHANS_S = 60.0
"""How long they may take when this process was killed."""
STOP_S = float(os.environ.get("MMCORE_STOP_S", "600"))
"""How long processes may take to finish their step and save after a signal, before they are ended by force."""
SECOND_S = 10.0
"""The same after a second signal."""
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
    with tempfile.TemporaryDirectory(prefix="mmcore-launch-") as name:
        folder = Path(name)
        said = [folder / f"rank-{rank}.txt" for rank in range(nproc)]
        processes = _start(command, said)
        with _Reaper(processes), _Forward(processes) as forward:
            failed = _wait(processes, forward, folder)
        if failed is None:
            return
        codes = [process.returncode for process in processes]
        if forward.received and codes[failed] in (128 + forward.received, -forward.received, -signal.SIGKILL):
            if forward.forced:
                tell(f"processes that did not stop within their time were ended by force: {forward.forced}")
            raise SystemExit(128 + forward.received)
        _tell_first(folder, said, codes, failed)


def _tell_first(folder: Path, said: Sequence[Path], codes: Sequence[int], failed: int) -> NoReturn:
    """End with the first cause in time: a process that was killed, else what the first to fail by itself left.

    Args:
        folder: where failures were left.
        said: what each process but the first printed.
        codes: exit codes.
        failed: the process that was seen to have failed first.
    """
    own = [failure for failure in collect(folder) if not failure.echo]
    died = codes[failed] < 0 and failed not in {failure.rank for failure in own}
    if own and not died:
        first = own[0]
        everywhere = len({failure.text for failure in own}) == 1 and len(own) == len(codes)
        tell(first.text if everywhere else f"{first.text}\n  rank:  {first.rank} of {len(codes)}, the first to fail")
        raise SystemExit(first.code)
    if failed == 0 and codes[0] > 0 and not collect(folder):
        raise SystemExit(codes[0])  # it has said why on the terminal
    raise LaunchError(
        f"process {failed} of {len(codes)} {_how(codes[failed])}; the others were ended",
        where=f"rank {failed}",
        known=_last_words(said[failed]) if failed else None,
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
            FOLDER_VARIABLE: str(path.parent),
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


def _wait(processes: Sequence[subprocess.Popen[bytes]], forward: "_Forward", folder: Path) -> int | None:
    """Wait for all; the first one that failed, or None. Once one has failed the others are ended."""
    while True:
        forward.end_the_stuck()
        codes = [process.poll() for process in processes]
        if any(codes):
            codes = _with_the_cause(processes, folder)
        failed = [rank for rank, code in enumerate(codes) if code]
        if failed:
            # Killed ones fail by themselves; those that end with a code in the same moment may have lost them.
            first = next((rank for rank in failed if (codes[rank] or 0) < 0), failed[0])
            if codes[first] == 2:
                # Wrong usage is found by all alike; the first process is about to say so on the terminal.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    first = 0 if processes[0].wait(USAGE_S) == 2 else first
            _end(processes)
            return first
        if all(code == 0 for code in codes):
            return None
        time.sleep(0.05)


def _with_the_cause(processes: Sequence[subprocess.Popen[bytes]], folder: Path) -> list[int | None]:
    """Exit codes once there is one that is no echo: nobody may be ended before it has said why it is ending."""
    deadline = time.monotonic() + ECHO_S
    while True:
        codes = [process.poll() for process in processes]
        echoes = {failure.rank for failure in collect(folder) if failure.echo}
        own = any(code and rank not in echoes for rank, code in enumerate(codes))
        if own or None not in codes or time.monotonic() > deadline:
            return codes
        time.sleep(0.05)


_SAVED = tuple(128 + number for number in SIGNALS)


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End what still runs: first by asking, then by force. A process waiting for a lost one cannot answer."""
    deadline = time.monotonic() + GRACE_S
    # Processes stopped by the same signal as the failed one are saving; give them the time before asking again.
    saving = any(process.poll() in _SAVED for process in processes)
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
    """Passes on the signals that ask a run to save and stop."""

    def __init__(self, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        self.processes, self.received, self.forced = processes, 0, 0
        self._deadline = math.inf
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_Forward":
        heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._pass_on) for number in heard}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def end_the_stuck(self) -> None:
        """End by force who has not stopped in its time."""
        if time.monotonic() < self._deadline:
            return
        for process in self.processes:
            if process.poll() is None:
                self.forced += 1
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        self._deadline = math.inf

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self._deadline = time.monotonic() + (SECOND_S if self.received else STOP_S)
        self.received = self.received or number
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(number)


class _Reaper:
    """The small process that ends the others when this one is killed; see `mmcore.train.reaper`."""

    def __init__(self, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        program = str(Path(__file__).with_name("reaper.py"))
        groups = [str(process.pid) for process in processes]
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-E", program, str(ORPHANS_S), *groups],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exception: object) -> None:
        self.process.communicate(b"done")


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
    # One machine keeps the terminal and its live line; of several every line bears a name, which is listened for.
    pipe = subprocess.PIPE if _num_hosts(hostfile) > 1 else None
    process = subprocess.Popen(
        command, env=environment, start_new_session=True, preexec_fn=_end_with_parent, stdout=pipe, stderr=pipe
    )
    heard = Heard(process) if pipe is not None else None
    with _Reaper([process]), _Forward([process]) as forward:
        while (code := process.poll()) is None:
            forward.end_the_stuck()
            time.sleep(0.05)
    ended = heard.finish() if heard is not None else None
    if forward.received:
        raise SystemExit(128 + forward.received)
    if code and ended is not None:
        raise LaunchError(
            f"a process on {ended.host} {_how(ended.code)}; the run was ended on all machines",
            where=f"--hostfile {hostfile}, {ended.host}",
            do="see what it said above; a process killed by SIGKILL often ran out of memory, see `mmcore doctor`",
        )
    if code:
        raise LaunchError(
            f"DeepSpeed's launcher failed with exit code {code}",
            where=f"--hostfile {hostfile}",
            do="see its message above; it needs ssh without a password to every host, and pdsh",
        )


def _num_hosts(hostfile: Path) -> int:
    lines = (line.partition("#")[0].strip() for line in hostfile.read_text(encoding="utf-8").splitlines())
    return sum(bool(line) for line in lines)
