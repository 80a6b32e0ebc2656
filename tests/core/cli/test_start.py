"""What a command imports before it works, and how seldom the collector of cycles looks meanwhile."""

import gc
import json
import subprocess
import sys
from importlib.metadata import entry_points

import pytest
from mmcore.base import collector

PLUGIN = next(iter(sorted(point.name for point in entry_points(group="mmcore"))), "")
HEAVY = ("torch", "torchvision", "transformers", "scipy", "sklearn", "pandas", "matplotlib", "deepspeed", "cv2")
"""Packages that cost a quarter of a second or more, or bring others that do."""
ASK = """
import json, sys
from mmcore.base import collector
from mmcore.cli import main
work, calls = collector.work, []
collector.work = lambda: calls.append(work())
try:
    main(sys.argv[2:])
except SystemExit as end:
    assert end.code in (0, 1), end.code
print(json.dumps([[name for name in sys.argv[1].split() if name in sys.modules], len(calls)]))
"""


def test_work_has_the_thresholds_of_before():
    before = gc.get_threshold()
    collector.start()
    assert gc.get_threshold()[0] > 10 * before[0]
    collector.work()
    assert gc.get_threshold() == before


@pytest.mark.parametrize(
    ("arguments", "allowed", "works"),
    [
        (["plan", "--stage", "1", "--no-build"], set(), False),
        (["data", "formats"], {"torch"}, True),
        # transformers brings torchvision and scipy with any model of its own.
        (["plan", "--stage", "1"], {"torch", "torchvision", "transformers", "scipy"}, True),
    ],
    ids=["recipe", "formats", "plan"],
)
@pytest.mark.skipif(not PLUGIN, reason="no plugin is installed")
def test_a_command_imports_what_it_needs(arguments, allowed, works, tmp_path):
    more = [] if arguments[0] == "data" else ["--variant", "tiny", "--data", str(tmp_path)]
    command = [sys.executable, "-c", ASK, " ".join(HEAVY), *arguments, "--plugin", PLUGIN, *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    imported, calls = json.loads(done.stdout.splitlines()[-1])
    assert set(imported) <= allowed
    assert calls == (2 if works else 1), "the collector looks as always once a model is built, and at the end"
