"""What every benchmark needs: the machine in numbers, fair timing, memory of a process of its own, JSON and a table.

Timings are made in turn (one round of each variant after another), so that whatever else the machine does falls on
all of them; a ratio comes with the interval that contains it in 95 of 100 resamplings of the rounds. Memory is
measured in a fresh process per variant: the high-water mark during the measured call minus what was resident before.
"""

import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
MIB = 1 << 20


@dataclass(frozen=True)
class Round:
    """One measured call."""

    wall: float
    """Seconds."""
    cpu: float
    """CPU seconds of all threads of this process."""


def machine(device: str = "cpu") -> dict[str, Any]:
    """Cores, threads, GFLOP/s of a 2048³ float32 matrix product and memory bandwidth in GB/s of a large copy."""
    import torch

    size, target = 2048, torch.device(device)
    a, b = (torch.randn(size, size, device=target) for _ in range(2))
    source = torch.empty(64 * MIB, dtype=torch.float32, device=target).fill_(1)
    copy = torch.empty_like(source)
    product = min(measure(lambda: a @ b, device).wall for _ in range(7))
    transfer = min(measure(lambda: copy.copy_(source), device).wall for _ in range(5))
    return {
        "device": torch.cuda.get_device_name(target) if target.type == "cuda" else processor(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "matmul_gflops": 2 * size**3 / product / 1e9,
        "copy_gbytes_per_s": 2 * source.nbytes / transfer / 1e9,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def processor() -> str:
    """The processor's name, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def measure(function: Callable[[], object], device: str = "cpu") -> Round:
    """Time one call; on a GPU until the device is done."""
    synchronise(device)
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    synchronise(device)
    return Round(time.perf_counter() - wall, time.process_time() - cpu)


def synchronise(device: str) -> None:
    """Wait for a GPU; nothing on a CPU."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()


def in_turn(
    variants: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int = 1, device: str = "cpu"
) -> dict[str, list[Round]]:
    """Time every variant once per round, in an order that is shuffled anew each round."""
    for _ in range(warmup):
        for function in variants.values():
            function()
    order, times = random.Random(0), {name: [] for name in variants}
    for _ in range(rounds):
        for name in order.sample(list(variants), len(variants)):
            times[name].append(measure(variants[name], device))
    return times


def ratio(slow: Sequence[float], fast: Sequence[float]) -> dict[str, float]:
    """Median of slow / fast over rounds measured together, with its 95 % bootstrap interval."""
    quotients = [s / f for s, f in zip(slow, fast, strict=True)]
    resample = random.Random(0)
    medians = sorted(statistics.median(resample.choices(quotients, k=len(quotients))) for _ in range(2000))
    return {"median": statistics.median(quotients), "low": medians[49], "high": medians[1949]}


def memory_peak(function: Callable[[], object], device: str = "cpu") -> int:
    """Bytes by which one call raises the memory in use; call it in a process of its own.

    On a GPU what the allocator handed out, on a CPU the resident set's high-water mark (reset before where the
    system allows it).
    """
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    reset_high_water()
    before = resident("VmRSS")
    function()
    return resident("VmHWM") - before


def reset_high_water() -> None:
    """Let the high-water mark fall to what is resident now (Linux)."""
    with suppress(OSError):  # elsewhere the mark includes the set-up, which makes the figure an upper bound
        Path("/proc/self/clear_refs").write_text("5")


def resident(entry: str) -> int:
    """VmRSS (now) or VmHWM (most ever) of this process, bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith(entry):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def in_own_process(script: str, arguments: Sequence[str]) -> Any:
    """Run a benchmark script with other arguments and return the JSON of its last line.

    Raises:
        RuntimeError: the script failed; its error output is in the message.
    """
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{script} {' '.join(arguments)} failed:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def save(name: str, result: Mapping[str, Any]) -> Path:
    """Write `bench/results/<name>.json`."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    return path


def table(rows: Sequence[Sequence[object]]) -> str:
    """Columns aligned for reading: the first to the left, the others to the right; the first row is the header."""
    text = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in text) for i in range(len(text[0]))]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in text
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
