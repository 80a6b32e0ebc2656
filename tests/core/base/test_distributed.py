"""Words between processes arrive whole and in rank order, at those who need them and nobody else."""

import json
import math
import os
import socket
import subprocess
import sys

from mmcore.base import distributed

TALK = """
import json, math, sys
import torch
from mmcore.base import distributed

here = distributed.start(torch.device("cpu"), timeout_s=60)
mine = [{}, {"who": "Zoë ✓", "huge": [1e400, None, 2**60]}, list(range(5000))][here.rank]
said = {
    "gathered": distributed.gather_json(mine),
    "everywhere": distributed.all_gather_json(mine),
    "told": distributed.broadcast_json({"rank": here.rank, "text": "é" * here.rank}),
}
distributed.barrier()
distributed.stop()
print(json.dumps(said))
"""


def test_messages_of_any_length_travel_in_rank_order() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TALK],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "3", "LOCAL_RANK": "0", "MASTER_PORT": port},
        )
        for rank in range(3)
    ]
    said = [json.loads(process.communicate(timeout=120)[0].splitlines()[-1]) for process in processes]
    expected = [{}, {"who": "Zoë ✓", "huge": [math.inf, None, 2**60]}, list(range(5000))]
    assert [one["gathered"] for one in said] == [expected, None, None]
    assert [one["everywhere"] for one in said] == [expected] * 3
    assert [one["told"] for one in said] == [{"rank": 0, "text": ""}] * 3


def test_a_single_process_talks_to_itself() -> None:
    assert distributed.gather_json([1]) == distributed.all_gather_json([1]) == [[1]]
    assert distributed.broadcast_json({"a": 1}) == {"a": 1}
