"""A loss or gradient that is not finite never reaches the weights.

The step's loss and gradient norm come to the host together, once, before the update. All processes see the same two
numbers and so decide alike: spend one of the skips the recipe allows, or save what led there and stop. A finite loss
that leaves the spread of the last steps is told, or stops the run in the same way (`loss_spikes`).
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmcore.base import distributed
from mmcore.base.tensorfile import Slot, write_safetensors
from mmcore.contract.recipe import Stage
from mmcore.contract.values import Batch
from mmcore.errors import LossSpikeError, NonFiniteError
from mmcore.train.spikes import WINDOW, Recent

Picture = Callable[[Batch, Path], Any]
"""Draws a batch into a folder."""

_DEAD = 3
"""Steps skipped one after the other at the end of a run that make it a failure."""


@dataclass(slots=True)
class Passed:
    """What the guard remembers of the steps so far; part of a checkpoint's state."""

    skipped: int = 0
    """Steps that were not finite and skipped."""
    in_a_row: int = 0
    """Of these, how many came last."""
    overflows: int = 0
    """Steps that fp16's loss scale took back."""
    recent: list[float] = field(default_factory=list)
    """Losses of the last steps."""


class Guard:
    """Counts skipped steps against the recipe's budget, and looks for losses that leave their spread.

    Args:
        run_dir: what led to a bad step is saved under `nonfinite/` or `spikes/` in it.
        stage: `skip_nonfinite` is the budget, `loss_spikes` what a spike does.
        passed: before a resume.
        picture: optional hook that draws a batch into a folder.
        say: told of a spike.
    """

    def __init__(
        self,
        run_dir: Path,
        stage: Stage,
        passed: Passed | None = None,
        picture: Picture | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.run_dir, self.budget, self.spikes = run_dir, stage.skip_nonfinite, stage.loss_spikes
        self.passed, self.picture, self.say = passed or Passed(), picture, say
        self._recent = Recent(self.passed.recent)
        self._told = -WINDOW

    @property
    def state(self) -> Passed:
        """What a checkpoint keeps."""
        self.passed.recent = list(self._recent.losses)
        return self.passed

    def allows(
        self,
        step: int,
        loss: float,
        norm: float,
        batches: Sequence[tuple[int, Batch]],
        parts: Sequence[dict[str, Tensor]],
    ) -> bool:
        """Whether the update may be made; False skips it.

        Args:
            step: the step in progress, from 1.
            loss: of the whole global batch.
            norm: of the gradients.
            batches: this process's micro-batches with their numbers.
            parts: the normalised losses of each of them.

        Raises:
            NonFiniteError: one is not finite and no skip is left; the batches have been saved.
            LossSpikeError: the loss is a spike, and the recipe stops there; the batches have been saved.
        """
        if math.isfinite(loss) and math.isfinite(norm):
            self.passed.in_a_row = 0
            self._look(step, loss, batches, parts)
            return True
        self.passed.skipped += 1
        self.passed.in_a_row += 1
        if self.passed.skipped <= self.budget:
            return False
        folder, values = self._keep("nonfinite", step, batches, parts)
        bad = sorted({name for losses in values for name, value in losses.items() if not math.isfinite(value)})
        what = "the loss" if not math.isfinite(loss) else "a gradient"
        raise NonFiniteError(
            f"{what} is not finite at step {step}; nothing was updated",
            where=folder,
            known=f"losses that are not finite: {', '.join(bad) or 'none on this process'}"
            + (f"; {self.budget} steps were skipped before" if self.budget else ""),
            do="look at the saved batch; then lower the learning rate, use bf16 or fp32, or allow skips: "
            f"`mmcore train --resume {self.run_dir} --set skip_nonfinite={self.budget + 10}`",
        )

    def check_end(self, step: int) -> None:
        """Whether a run that came to its end was training when it did.

        Raises:
            NonFiniteError: its last steps were all skipped.
        """
        if self.passed.in_a_row < min(_DEAD, step):
            return
        raise NonFiniteError(
            f"the last {self.passed.in_a_row} of {step} steps were not finite and were skipped: the run had stopped "
            "learning",
            where=self.run_dir,
            do="take an earlier checkpoint, and lower the learning rate or use bf16 or fp32",
        )

    def _look(
        self, step: int, loss: float, batches: Sequence[tuple[int, Batch]], parts: Sequence[dict[str, Tensor]]
    ) -> None:
        if self.spikes != "off" and self._recent.is_spike(loss):
            text = f"step {step}: the loss is {loss:.4g}; {self._recent.describe()}"
            if self.spikes == "stop":
                folder, _ = self._keep("spikes", step, batches, parts)
                raise LossSpikeError(
                    f"{text}; nothing was updated",
                    where=folder,
                    do="look at the saved batch; go on with `mmcore train --resume` and --set loss_spikes=warn, or "
                    "start again with a lower learning rate or clip_grad_norm",
                )
            if step - self._told >= WINDOW:  # a run that falls apart says so once, not at every step
                self.say(f"{text}; it was applied (loss_spikes: warn)")
                self._told = step
        self._recent.add(loss)

    def _keep(
        self, kind: str, step: int, batches: Sequence[tuple[int, Batch]], parts: Sequence[dict[str, Tensor]]
    ) -> tuple[Path, list[dict[str, float]]]:
        """Save what led to a bad step; the folder, and the losses of each micro-batch."""
        values = [{name: float(value) for name, value in part.items()} for part in parts]
        folder = self.run_dir / kind / f"step-{step:08d}" / f"rank-{distributed.place().rank}"
        for (m, batch), losses in zip(batches, values, strict=True):
            save_batch(batch, folder / f"micro-batch-{m}", losses)
            if self.picture is not None:
                self._draw(batch, folder / f"micro-batch-{m}")
        return folder, values

    def _draw(self, batch: Batch, folder: Path) -> None:
        assert self.picture is not None
        try:
            self.picture(batch, folder)
        except Exception as error:  # the drawing must not hide what it illustrates
            (folder / "picture-failed.txt").write_text(f"{type(error).__name__}: {error}\n")


def save_batch(batch: Batch, folder: Path, losses: dict[str, float]) -> None:
    """A batch as `tensors.safetensors`, and its other fields and losses as `batch.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    plain = {f.name: _split(getattr(batch, f.name), f.name, tensors) for f in dataclasses.fields(batch)}
    path = folder / "tensors.safetensors"
    path.unlink(missing_ok=True)
    write_safetensors(path, [Slot(name, tuple(t.shape), t.dtype, t.detach) for name, t in _storable(tensors)])
    record = {"type": type(batch).__name__, "losses": {name: repr(value) for name, value in losses.items()}, **plain}
    (folder / "batch.json").write_text(json.dumps(record, indent=1, default=str) + "\n")


def _storable(tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in tensors.items():
        yield name, torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _split(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """`value` with tensors moved to `tensors` under their dotted names."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return f"tensor {name}"
    if isinstance(value, dict):
        return {str(key): _split(item, f"{name}.{key}", tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_split(item, f"{name}.{i}", tensors) for i, item in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _split(getattr(value, f.name), f"{name}.{f.name}", tensors) for f in dataclasses.fields(value)}
    return value
