"""The start of a command, with the collector of cycles looking seldom meanwhile, and as always.

    python bench/start.py [--plugins glee,glamm]       # plan of the first stage of every family's published size

Off, the collector keeps Python's thresholds and what transformers fills on meta is traced. CPU seconds of a whole
`mmcore plan` in a process of its own, data not at hand, both ways in turn.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import entry_points
from typing import Any

import common

OFF = """
import sys
from mmcore.base import collector
from mmcore.cli import main
collector.start = lambda: None
if "--no-build" not in sys.argv:
    from mmcore.weights import skeleton
    skeleton._INITIALISERS = frozenset(("torch.nn.init",))
main()
"""
ON = "from mmcore.cli import main; main()"


def seconds(code: str, arguments: list[str]) -> float:
    """CPU seconds of one command."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode in (0, 1), f"{arguments} ended with {process.returncode}"
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--plugins", default=",".join(sorted(point.name for point in entry_points(group="mmcore"))))
    given = parser.parse_args()
    rows: list[list[Any]] = [["plan", "CPU s", "off", "off / on"]]
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as nothing:
        for plugin in given.plugins.split(","):
            arguments = ["plan", "--plugin", plugin, "--stage", "1", "--data", nothing]
            times: dict[str, list[float]] = {ON: [], OFF: []}
            for number in range(given.rounds + 1):
                for code, found in times.items():
                    found[number - 1 :] = [seconds(code, arguments)]  # the first round only warms the disk's memory
            ratio = common.ratio(times[OFF], times[ON])
            report[plugin] = {"on": times[ON], "off": times[OFF], "ratio": ratio}
            medians = (f"{statistics.median(found):.2f}" for found in times.values())
            rows.append([plugin, *medians, f"{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})"])
    print(common.table(rows))
    print(json.dumps({"written": str(common.save("start", {"machine": common.machine(), **report}))}))


if __name__ == "__main__":
    main()
