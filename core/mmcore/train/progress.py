"""What a person sees while a run trains: one live line on a terminal, plain lines elsewhere."""

import contextlib
import resource
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch

from mmcore.base.figures import is_loss, written
from mmcore.base.progress import LiveLine, clock
from mmcore.contract.values import Batch

EVERY_S = 60.0
"""Seconds between two drawings of the curves, at least."""


@dataclass
class Window:
    """What happened since the last logged step, on this process."""

    began: float = field(default_factory=time.monotonic)
    steps: int = 0
    samples: int = 0
    waited: float = 0.0
    """Seconds in which the loop waited for data."""
    tokens: float = 0.0
    padding: float = 0.0
    """Padding positions; with `tokens` they make up the padded sequences."""

    def add(self, batch: Batch) -> None:
        self.samples += len(batch)
        # A language model learns few of the tokens that it reads; what it reads is its speed.
        self.tokens += batch.statistics.get("positions", 0.0)
        self.padding += batch.statistics.get("padding", 0.0)

    def timing(self, world_size: int, device: torch.device) -> dict[str, float]:
        """Rates over the window; `world_size` processes are taken to be alike."""
        seconds = max(time.monotonic() - self.began, 1e-9)
        result = {
            "step_s": seconds / max(self.steps, 1),
            "samples_per_s": self.samples * world_size / seconds,
            "data_wait_percent": 100.0 * self.waited / seconds,
            "memory_gb": memory_gb(device),
        }
        if self.tokens:
            result["tokens_per_s"] = self.tokens * world_size / seconds
        if self.padding:
            result["padding_percent"] = 100.0 * self.padding / (self.padding + self.tokens)
        return {name: round(value, 4) for name, value in result.items()}


def memory_gb(device: torch.device) -> float:
    """Peak memory: of the device, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    # Kilobytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1024 if sys.platform != "darwin" else 1) / 1e9


class Curves:
    """Has the curves drawn while a run goes on: at its first logged step, then about once a minute, and seldomer where
    drawing would take more than a fiftieth of the time.

    Args:
        draw: draws them; None draws nothing.
    """

    def __init__(self, draw: Callable[[], object] | None) -> None:
        self._draw, self._next = draw, 0.0

    def due(self) -> None:
        """Draw them if it is time."""
        if time.monotonic() >= self._next:
            self.draw()

    def draw(self) -> None:
        """Draw them now."""
        if self._draw is None:
            return
        began = time.monotonic()
        with contextlib.suppress(OSError):  # a full disk is told where it costs something
            self._draw()
        now = time.monotonic()
        self._next = now + max(EVERY_S, 50 * (now - began))


class Progress(AbstractContextManager["Progress"]):
    """Shows the state of a run.

    Args:
        total: the step at which the run ends.
        show: False on all but the first process.
    """

    def __init__(self, total: int, *, show: bool = True) -> None:
        self.total = total
        self._line = LiveLine(show=show)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._line.close()

    def step(self, record: Mapping[str, Any]) -> None:
        """Show a logged step."""
        self._line.update(line(record, self.total))

    def say(self, text: str) -> None:
        """Show a message above the live line."""
        self._line.say(text)


def line(record: Mapping[str, Any], total: int) -> str:
    """One line of progress.

    >>> line({"step": 20, "total": 1.5, "lr": {"group0": 1e-4}, "timing": {"step_s": 2.0, "samples_per_s": 4.0,
    ...     "data_wait_percent": 1.0, "memory_gb": 1.25}}, 80)
    'step 20/80  loss 1.5  lr 0.0001  4.0 samples/s  data wait 1%  peak memory 1.2 GB  2:00 left'
    """
    timing = record["timing"]
    parts = [
        f"step {record['step']}/{total}",
        f"loss {record['total']:.4g}",
        f"lr {max(record['lr'].values()):.3g}",
    ]
    if overflows := record.get("overflows"):  # of fp16: the rate is 0 where the update was dropped
        parts.append(f"{overflows} updates dropped to find the loss scale, now {record['loss_scale']:g}")
    parts.append(f"{timing['samples_per_s']:.1f} samples/s")
    if "tokens_per_s" in timing:
        parts.append(f"{timing['tokens_per_s']:,.0f} tokens/s")
    if "padding_percent" in timing:
        parts.append(f"padding {timing['padding_percent']:.0f}%")
    parts.append(f"data wait {timing['data_wait_percent']:.0f}%")
    parts.append(f"peak memory {timing['memory_gb']:.1f} GB")
    parts.append(f"{clock((total - record['step']) * timing['step_s'])} left")
    return "  ".join(parts)


def brief(metrics: Mapping[str, float], most: int = 3) -> str:
    """The first few metrics of each validation set, and its loss; evaluators name the headline figures first.

    >>> brief({"coco/AP": 0.25, "coco/AP50": 0.5, "coco/AP75": 0.2, "coco/APs": 0.1, "refcoco/P@0.5": 0.75})
    'coco/AP 25.0%, coco/AP50 50.0%, coco/AP75 20.0%, refcoco/P@0.5 75.0%'
    """
    seen: dict[str, int] = {}
    shown = []
    for name, value in metrics.items():
        source = name.split("/")[0]
        seen[source] = seen.get(source, 0) + 1
        if seen[source] <= most or is_loss(name):
            shown.append(f"{name} {written(name, value)}")
    return ", ".join(shown)
