"""Starting processes: failures are named, nobody is left behind, signals are passed on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mmcore.base.distributed import Place, place
from mmcore.errors import LaunchError
from mmcore.train.launch import launch, spawn

SAY_RANK = "import os, sys; open(sys.argv[1] + os.environ['RANK'], 'w').write(os.environ['WORLD_SIZE'])"
FAIL_ON_1 = (
    "import os, sys, time\nif os.environ['RANK'] == '1': sys.exit('ValueError: rank one is unwell')\ntime.sleep(60)"
)
FAIL_ON_0 = "import os, sys, time\nif os.environ['RANK'] == '0': sys.exit(2)\ntime.sleep(60)"
DIE_ON_1 = "import os, time\nif os.environ['RANK'] == '1': os.kill(os.getpid(), 9)\ntime.sleep(60)"
LAUNCHER = "import sys; from mmcore.train.launch import spawn; spawn(sys.argv[1:], 2)"
WAIT = """
import os, signal, sys, time
def stop(number, frame):
    time.sleep(0.3)
    open(sys.argv[1] + 'stopped' + os.environ['RANK'], 'w').close()
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
open(sys.argv[1] + 'pid' + os.environ['RANK'], 'w').write(str(os.getpid()))
time.sleep(60)
"""


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", code, *arguments]


def wait_for(*paths: Path) -> None:
    deadline = time.monotonic() + 20
    while not all(path.exists() and path.read_text() for path in paths):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_every_process_knows_its_rank(tmp_path: Path) -> None:
    spawn(python(SAY_RANK, f"{tmp_path}/"), 3)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys("012", "3")


def test_the_first_process_to_fail_is_named_with_its_last_words() -> None:
    began = time.monotonic()
    with pytest.raises(LaunchError, match="process 1 of 2 failed with exit code 1") as caught:
        spawn(python(FAIL_ON_1), 2)
    assert "rank one is unwell" in str(caught.value)
    assert time.monotonic() - began < 30


def test_a_killed_process_is_named_with_its_signal() -> None:
    with pytest.raises(LaunchError, match="process 1 of 2 was killed by SIGKILL"):
        spawn(python(DIE_ON_1), 2)


def test_the_first_process_has_said_why_so_only_its_code_is_kept() -> None:
    with pytest.raises(SystemExit) as caught:
        spawn(python(FAIL_ON_0), 2)
    assert caught.value.code == 2


def test_wrong_usage_that_all_find_is_said_once_by_the_first() -> None:
    """Here the first process is the last to find it."""
    code = "import os, sys, time; time.sleep(0.5 * (os.environ['RANK'] == '0')); sys.exit(2)"
    with pytest.raises(SystemExit) as caught:
        spawn(python(code), 2)
    assert caught.value.code == 2


def test_sigterm_is_passed_on_once_and_waited_for(tmp_path: Path) -> None:
    launcher = subprocess.Popen(python(LAUNCHER, *python(WAIT, f"{tmp_path}/")))
    wait_for(tmp_path / "pid0", tmp_path / "pid1")
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(20) == 143
    assert (tmp_path / "stopped0").exists()
    assert (tmp_path / "stopped1").exists()


STUBBORN = """
import os, signal, sys, time
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, signal.SIG_IGN)
open(sys.argv[1] + 'pid' + os.environ['RANK'], 'w').write(str(os.getpid()))
time.sleep(120)
"""


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR2])
def test_other_signals_are_passed_on_too(tmp_path: Path, number: int) -> None:
    code = WAIT.replace("signal.SIGTERM", str(int(number))).replace("143", str(128 + number))
    launcher = subprocess.Popen(python(LAUNCHER, *python(code, f"{tmp_path}/")))
    wait_for(tmp_path / "pid0", tmp_path / "pid1")
    launcher.send_signal(number)
    assert launcher.wait(20) == 128 + number
    assert (tmp_path / "stopped0").exists()
    assert (tmp_path / "stopped1").exists()


def test_a_process_that_does_not_stop_is_ended_after_the_deadline(tmp_path: Path) -> None:
    environment = {**os.environ, "MMCORE_STOP_S": "0.5"}
    launcher = subprocess.Popen(
        python(LAUNCHER, *python(STUBBORN, f"{tmp_path}/")), env=environment, stderr=subprocess.PIPE, text=True
    )
    wait_for(tmp_path / "pid0", tmp_path / "pid1")
    pids = [int((tmp_path / f"pid{rank}").read_text()) for rank in (0, 1)]
    os.kill(pids[1], signal.SIGSTOP)  # not even the kernel's word reaches it
    launcher.send_signal(signal.SIGTERM)
    _, said = launcher.communicate(timeout=20)
    assert launcher.returncode == 143
    assert "ended by force: 2" in said
    assert not any(map(alive, pids))


def test_a_killed_launcher_ends_also_processes_that_do_not_listen(tmp_path: Path) -> None:
    code = f"import mmcore.train.launch as launch; launch.ORPHANS_S = 0.5; {LAUNCHER}"
    launcher = subprocess.Popen(python(code, *python(STUBBORN, f"{tmp_path}/")))
    wait_for(tmp_path / "pid0", tmp_path / "pid1")
    pids = [int((tmp_path / f"pid{rank}").read_text()) for rank in (0, 1)]
    os.kill(pids[0], signal.SIGSTOP)
    time.sleep(0.3)  # the reaper starts after them
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.wait()
    deadline = time.monotonic() + 15
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, pids))


FAIL = """
import os, sys, time
from mmcore.cli import main
from mmcore.errors import DataError
import mmcore.cli
rank = int(os.environ['RANK'])
def fail(*arguments, **options):
    if rank == 1:
        time.sleep(0.5)
        raise DataError('image is truncated', where='data worker 0, record 7')
    time.sleep(0.6)
    raise RuntimeError('[enforce fail at gloo/transport/tcp/pair.cc] Connection closed by peer [127.0.0.1]:1234')
mmcore.cli.cli.main = fail
main(['train'])
"""


@pytest.mark.parametrize("late_s", [0.5, 2.0])
def test_the_first_cause_is_told_with_its_rank_and_no_echo_of_it(capfd, late_s: float) -> None:
    """Also where its connections closed long before it came to say why."""
    with pytest.raises(SystemExit) as caught:
        spawn(python(FAIL.replace("sleep(0.5)", f"sleep({late_s})")), 2)
    assert caught.value.code == 1
    said = capfd.readouterr().err
    assert said.startswith("DataError: image is truncated\n  where: data worker 0, record 7\n  rank:  1 of 2")
    assert "gloo" not in said
    assert "Traceback" not in said


def test_what_all_processes_find_is_told_once_without_a_rank(capfd) -> None:
    with pytest.raises(SystemExit) as caught:
        spawn(python(FAIL.replace("if rank == 1", "if True")), 2)
    assert caught.value.code == 1
    said = capfd.readouterr().err
    assert said.count("image is truncated") == 1


@pytest.mark.parametrize("late_s", [0.5, 2.0])
def test_a_killed_process_is_the_cause_and_the_others_words_its_echo(capfd, late_s: float) -> None:
    killed = FAIL.replace("sleep(0.5)", f"sleep({late_s})").replace(
        "raise DataError('image is truncated', where='data worker 0, record 7')", "os.kill(os.getpid(), 9)"
    )
    with pytest.raises(LaunchError, match="process 1 of 2 was killed by SIGKILL"):
        spawn(python(killed), 2)
    assert "gloo" not in capfd.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells children of their parent's death on Linux only")
def test_a_killed_launcher_leaves_no_process_behind(tmp_path: Path) -> None:
    launcher = subprocess.Popen(python(LAUNCHER, *python(WAIT, f"{tmp_path}/")))
    wait_for(tmp_path / "pid0", tmp_path / "pid1")
    pids = [int((tmp_path / f"pid{rank}").read_text()) for rank in (0, 1)]
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.wait()
    deadline = time.monotonic() + 10
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, pids))


def test_a_missing_host_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="no host file"):
        launch(["train"], hostfile=tmp_path / "hosts.txt")


def test_the_machine_whose_process_died_is_named(
    tmp_path: Path, two_hosts: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "mmcore"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(
        "import os, signal, time\n"
        "time.sleep(1)\n"
        "os.kill(os.getpid(), signal.SIGKILL) if os.environ['RANK'] == '1' else time.sleep(3)\n"
        "raise SystemExit(int(os.environ['RANK'] == '0'))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(LaunchError, match=r"a process on 127\.0\.0\.1 was killed") as caught:
        launch(["train"], hostfile=two_hosts)
    assert "SIGKILL" in str(caught.value)
    assert "127.0.0.1: " in capfd.readouterr().out


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Place()),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, Place(3, 8, 1)),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "1"}, Place(1, 2, 1)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "16", "SLURM_JOB_ID": "7"}, Place()),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "4"}, Place(0, 4, 0)),
    ],
)
def test_any_launcher_tells_the_place(environment: dict[str, str], expected: Place) -> None:
    """An allocation of SLURM without `srun` is a single process."""
    assert place(environment) == expected


@pytest.mark.parametrize("environment", [{"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "a", "WORLD_SIZE": "2"}])
def test_a_contradictory_environment_is_an_error(environment: dict[str, str]) -> None:
    with pytest.raises(LaunchError):
        place(environment)
