"""What every installed plugin is, asked in a process of its own: a plugin runs its own code when it is imported.

One that never returns, ends the process or crashes it takes the child with it and nothing else; it is named, and the
others are asked again by a new child. A run needs none of this: it imports only what it names.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import Any

from mmcore.errors import printable
from mmcore.plugins.find import find_all, inspect, source_of
from mmcore.plugins.plugin import Plugin, Problem

DEADLINE_S = 20.0
"""How long one plugin may take to be imported."""
_CHILD = "from mmcore.plugins.survey import answer; answer()"


def survey(deadline_s: float = DEADLINE_S) -> list[dict[str, Any]]:
    """What `Plugin.describe` says of every installed plugin, broken ones included, in order of name."""
    waiting, answers = list(find_all()), []
    while waiting:
        found, why = _ask(waiting, deadline_s)
        answers += found
        waiting = waiting[len(found) :]
        if waiting:
            answers.append(_broken(waiting.pop(0), why))
    return [_clean(answer) for answer in answers]


def answer() -> None:
    """Of the child: a line of JSON for every name on standard input, on what was its standard output."""
    asked = json.loads(sys.stdin.readline())
    sys.path[:] = asked["path"]
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what plugins print is no answer
    points = find_all()
    for name in asked["names"]:
        try:
            told = inspect(points[name]).describe()
        except BaseException as error:  # an attribute that raises
            told = _broken(name, f"raises {type(error).__name__} when it is looked at: {error}")
        print(json.dumps(told, default=str), file=out)


def _ask(names: list[str], deadline_s: float) -> tuple[list[dict[str, Any]], str]:
    """The answers of one child, as many as it gave, and why it gave no more."""
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write((json.dumps({"path": sys.path, "names": names}) + "\n").encode())
        child.stdin.close()
        lines, ended = _lines(child.stdout.fileno(), len(names), deadline_s)
    finally:
        if child.poll() is None:
            child.kill() if child.pid <= 1 else os.killpg(child.pid, signal.SIGKILL)
        code = child.wait()
        child.stdout.close()
    if not ended:
        return lines, f"does not return within {deadline_s:.0f} s when it is imported"
    how = f"is killed by {signal.Signals(-code).name}" if code < 0 else f"ends the process with exit code {code}"
    return lines, f"{how} when it is imported"


def _lines(pipe: int, count: int, deadline_s: float) -> tuple[list[dict[str, Any]], bool]:
    """Answers as they come, each within the deadline; and whether the child has closed its end."""
    text, answers, deadline = b"", [], time.monotonic() + deadline_s
    while len(answers) < count:
        if not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return answers, False
        piece = os.read(pipe, 1 << 16)
        if not piece:
            return answers, True
        *whole, text = (text + piece).split(b"\n")
        answers += [json.loads(line) for line in whole]
        deadline = time.monotonic() + deadline_s if whole else deadline
    return answers, True


def _broken(name: str, what: str) -> dict[str, Any]:
    points = find_all()
    distribution, version = source_of(points[name][0])
    problem = Problem(what, f"pip uninstall {distribution}, or ask its author: an import must only define things")
    return Plugin(name, distribution, version, "", trouble=problem).describe()


def _clean(value: Any) -> Any:
    """Texts of plugins are shown on terminals."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_clean(item) for item in value]
    return {key: _clean(item) for key, item in value.items()} if isinstance(value, dict) else value
