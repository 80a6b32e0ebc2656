"""What an evaluation's results cost on their way between processes: JSON as bytes, to the first process only.

    python bench/messages.py                   # two processes, 20 MB each: under a minute
    python bench/messages.py --megabytes 5

`ours` is `mmcore.base.distributed.gather_json`; `listed` sends every message, padded, to every process and turns each
byte into a Python number before it is decoded, which is the shortest way to write it. Both give the first process
equal values. Seconds are of the slowest process, which is what the others wait for.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
from typing import Any

import common
import torch
import torch.distributed as dist
from mmcore.base import distributed


def results(megabytes: float, rank: int) -> list[dict[str, Any]]:
    """Boxes as an evaluator gathers them."""
    one = {"image_id": 397133 + rank, "category_id": 44, "bbox": [217.62, 240.54, 38.99, 57.75], "score": 0.8712345}
    return [one] * int(megabytes * 1e6 / len(json.dumps(one)))


def listed(value: Any) -> list[Any]:
    """Everything to everyone, byte by byte."""
    data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(data)]))
    room = max(int(size) for size in sizes)
    padded = torch.zeros(room, dtype=torch.uint8)
    padded[: len(data)] = data
    parts = [torch.zeros(room, dtype=torch.uint8) for _ in sizes]
    dist.all_gather(parts, padded)
    return [json.loads(bytes(part[: int(size)].tolist())) for part, size in zip(parts, sizes, strict=True)]


def one_process(megabytes: float, rounds: int) -> None:
    """Time both in turn on this rank; the first prints what every rank measured."""
    here = distributed.start(torch.device("cpu"))
    value = results(megabytes, here.rank)
    ours, plain = distributed.gather_json(value), listed(value)
    if here.is_first and ours != plain:
        raise SystemExit("the two ways give different values")
    del ours, plain

    def waited(function: Any) -> Any:
        def call() -> None:
            function(value)
            distributed.barrier()

        return call

    variants = {"ours": waited(distributed.gather_json), "listed": waited(listed)}
    times = common.in_turn(variants, rounds=rounds)
    mine = {name: {"wall": [r.wall for r in found], "cpu": [r.cpu for r in found]} for name, found in times.items()}
    everyone = distributed.gather_json(mine)
    distributed.stop()
    if everyone is not None:
        print(json.dumps(everyone))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=20.0, help="of JSON on each process")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    if "RANK" in os.environ:
        one_process(given.megabytes, given.rounds)
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_PORT": str(free.getsockname()[1])}
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, *sys.argv[1:]],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [rank.communicate()[0] for rank in ranks]
    if any(rank.returncode for rank in ranks):
        raise SystemExit("a process failed; its message is above")
    everyone = json.loads(said[0].splitlines()[-1])
    wall = {name: [max(r) for r in zip(*(one[name]["wall"] for one in everyone))] for name in ("ours", "listed")}
    cpu = {name: [sum(r) for r in zip(*(one[name]["cpu"] for one in everyone))] for name in ("ours", "listed")}
    result = {
        "megabytes": given.megabytes,
        "seconds": {name: statistics.median(found) for name, found in wall.items()},
        "cpu_seconds_of_both": {name: statistics.median(found) for name, found in cpu.items()},
        "listed_over_ours": common.ratio(wall["listed"], wall["ours"]),
        "cpu_listed_over_ours": common.ratio(cpu["listed"], cpu["ours"]),
        "machine": common.machine(),
    }
    print(json.dumps(result, indent=1))
    print(f"written to {common.save('messages', result)}", file=sys.stderr)


if __name__ == "__main__":
    main()
