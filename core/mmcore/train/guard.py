"""A loss or gradient that is not finite never reaches the weights.

The step's loss and gradient norm come to the host together, once, before the update. All processes see the same two
numbers and so decide alike: spend one of the skips the recipe allows, or save what led there and stop.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmcore.base import distributed
from mmcore.base.tensorfile import Slot, write_safetensors
from mmcore.contract.values import Batch
from mmcore.errors import NonFiniteError

Picture = Callable[[Batch, Path], Any]
"""Draws a batch into a folder."""


class Guard:
    """Counts skipped steps against the recipe's budget.

    Args:
        run_dir: what led to a bad step is saved under `nonfinite/` in it.
        budget: the recipe's `skip_nonfinite`.
        skipped: steps skipped before a resume.
        picture: optional hook that draws a batch into a folder.
    """

    def __init__(self, run_dir: Path, budget: int, skipped: int = 0, picture: Picture | None = None) -> None:
        self.run_dir, self.budget, self.skipped, self.picture = run_dir, budget, skipped, picture

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
        """
        if math.isfinite(loss) and math.isfinite(norm):
            return True
        self.skipped += 1
        if self.skipped <= self.budget:
            return False
        values = [{name: float(value) for name, value in part.items()} for part in parts]
        folder = self.run_dir / "nonfinite" / f"step-{step:08d}" / f"rank-{distributed.place().rank}"
        for (m, batch), losses in zip(batches, values, strict=True):
            save_batch(batch, folder / f"micro-batch-{m}", losses)
            if self.picture is not None:
                self._draw(batch, folder / f"micro-batch-{m}")
        bad = sorted({name for losses in values for name, value in losses.items() if not math.isfinite(value)})
        what = "the loss" if not math.isfinite(loss) else "a gradient"
        raise NonFiniteError(
            f"{what} is not finite at step {step}; nothing was updated",
            where=folder,
            known=f"losses that are not finite: {', '.join(bad) or 'none on this process'}"
            + (f"; {self.budget} steps were skipped before" if self.budget else ""),
            do="look at the saved batch; then lower the learning rate, use bf16 or fp32, or allow skips with "
            "--set skip_nonfinite=10 and --resume",
        )

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
