"""What a count says and when: rarely in a log, rewritten on a terminal, nothing where nobody would wait."""

import io
import sys

import pytest
from mmcore.base import progress
from mmcore.base.progress import Count, LiveLine


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_every_ten_seconds(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Count("eval val", "records") as count:
        for done in range(25):
            count(done, 1000)
            clock[0] += 1
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "eval val  10 of 1,000 records, 1.0/s, 16:30 left",
        "eval val  20 of 1,000 records, 1.0/s, 16:20 left",
    ]


def test_new_labels_are_told_at_once_and_short_work_not_at_all(clock: list[float], capsys) -> None:
    count = Count("index", quiet_s=0.5)
    count(0.0, label="index: reading")
    clock[0] += 0.4
    count(0.5, label="index: writing")
    count.close("index: ready")
    assert capsys.readouterr().err == ""
    count = Count("index", quiet_s=0.5)
    clock[0] += 2
    count(0.25, label="index: reading")
    count(0.5, label="index: reading")
    count(0.75, label="index: writing")
    count.close("index: ready")
    assert capsys.readouterr().err.splitlines() == [
        "index: reading  25%, 0:02",
        "index: writing  75%, 0:02",
        "index: ready after 2.0 s",
    ]


def test_a_terminal_sees_one_line_and_messages_that_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    progress._console.cache_clear()
    outer, inner = LiveLine(), LiveLine()
    outer.update("step 1")
    inner.update("eval 5 of 9")
    inner.close()
    outer.say("saved")
    outer.update("step 2")
    outer.close()
    progress._console.cache_clear()
    shown = screen.getvalue()
    assert all(text in shown for text in ("step 1", "eval 5 of 9", "saved", "step 2"))
    assert "\x1b[" in shown


def test_other_processes_show_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    line = LiveLine(show=False)
    line.update("step 1")
    line.say("saved")
    line.close()
    assert capsys.readouterr().err == ""
