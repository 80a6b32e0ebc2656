"""What the loop asks of an engine, and the plain one: a single process, CPU or GPU, with float32 weights.

Both engines gather a step's gradients on this process first and give a trainable parameter that no batch reached a
gradient of zero, not none: its momentum still moves it and weight decay still applies, as in the published code, and
one process agrees with many.
"""

# torch's list operations and hook tables have no public names.
# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mmcore.contract.recipe import Stage
from mmcore.contract.values import Batch
from mmcore.train.objective import Objective
from mmcore.train.optim import adamw, parameter_groups

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's state per parameter; the number of updates is common to all."""


class Engine(Protocol):
    """Forward, backward and update. Calls of one step: (forward, backward) per micro-batch, norm, then step or drop."""

    model: nn.Module
    objective: Objective

    def forward(self, batch: Batch, divisors: Mapping[str, float]) -> Tensor:
        """The normalised loss of one micro-batch; its parts are in `objective.parts`."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss` to those of this step."""
        ...

    def health(self, loss: Tensor) -> tuple[float, float]:
        """Sum over all processes of the step's loss, and of the local gradient norms; both finite on all or none.

        The one moment of a step at which the host waits for the device.
        """
        ...

    def step(self, factor: float) -> None:
        """Clip, update with every rate times `factor`, forget the gradients."""
        ...

    def drop(self) -> None:
        """Forget the gradients without an update."""
        ...

    def grad_norm(self) -> float:
        """L2 norm of the whole averaged gradient of the last update, before clipping."""
        ...

    def learning_rates(self) -> list[float]:
        """Current rate of each parameter group."""
        ...

    def tensors(self) -> Iterator["Entry"]:
        """Everything a checkpoint holds, in the same order on every process."""
        ...

    def load_moments(self, moments: Mapping[str, Mapping[str, Tensor]], updates: int) -> None:
        """Take over AdamW's state of a checkpoint; its weights were in the model before the engine was built."""
        ...

    updates: int
    """AdamW updates done; differs from the step when steps were skipped."""
    loss_scale: "LossScale | None"
    device: torch.device

    def evaluating(self) -> Any:
        """A context in which `model` has its whole weights on every process and may be called freely."""
        ...


class Entry:
    """One tensor of a checkpoint that is made whole only when asked for.

    Args:
        file: "model" or "optimizer".
        name: its key there.
        shape: of the whole tensor.
        dtype: as stored.
        get: makes it whole on this process; collective under ZeRO, so every process calls it.
    """

    __slots__ = ("dtype", "file", "get", "name", "shape")

    def __init__(self, file: str, name: str, shape: Sequence[int], dtype: torch.dtype, get: Any) -> None:
        self.file, self.name, self.shape, self.dtype, self.get = file, name, tuple(shape), dtype, get

    @property
    def nbytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class LossScale:
    """Dynamic loss scaling for fp16 (Micikevicius et al. 2018): halve on overflow, double after 2000 good steps."""

    def __init__(self) -> None:
        self.value, self.good_steps = 65536.0, 0

    def update(self, overflow: bool) -> None:
        """Adapt after a step."""
        self.good_steps = 0 if overflow else self.good_steps + 1
        if overflow:
            self.value = max(self.value / 2, 1.0)
        elif self.good_steps % 2000 == 0:
            self.value *= 2


class PlainEngine:
    """One process: AdamW on float32 weights, autocast in the forward pass."""

    def __init__(self, model: nn.Module, stage: Stage, device: torch.device) -> None:
        self.device = device
        self.model = model.to(device)
        self.objective = Objective(model, stage.precision)
        self.groups = parameter_groups(model, stage)
        self.parameters = [parameter for group in self.groups for parameter in group["params"]]
        self.optimizer = adamw(self.groups, stage)
        self.clip = stage.optim.clip_grad_norm
        self.loss_scale = LossScale() if stage.precision == "fp16" else None
        self.updates = 0
        self._norm: Tensor | None = None

    def forward(self, batch: Batch, divisors: Mapping[str, float]) -> Tensor:
        return self.objective(batch, divisors)

    def backward(self, loss: Tensor) -> None:
        if loss.requires_grad:
            (loss * self.loss_scale.value if self.loss_scale else loss).backward()

    def health(self, loss: Tensor) -> tuple[float, float]:
        gradients = complete_gradients(self.parameters, self.loss_scale)
        self._norm = torch.nn.utils.get_total_norm(gradients)
        total, norm = torch.stack([loss.to(self._norm), self._norm]).tolist()
        return total, norm

    def step(self, factor: float) -> None:
        assert self._norm is not None
        if self.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.clip, self._norm)
        set_rates(self.optimizer, self.groups, factor)
        self.optimizer.step()
        self.updates += 1
        self.drop()

    def drop(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def grad_norm(self) -> float:
        return float(self._norm) if self._norm is not None else 0.0

    def learning_rates(self) -> list[float]:
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def tensors(self) -> Iterator[Entry]:
        for name, tensor in self.model.state_dict().items():
            yield Entry("model", name, tensor.shape, tensor.dtype, tensor.detach)
        yield from moment_entries(self.groups, self.optimizer)

    def load_moments(self, moments: Mapping[str, Mapping[str, Tensor]], updates: int) -> None:
        load_moments(self.groups, self.optimizer, moments, updates)
        self.updates = updates

    def evaluating(self) -> Any:
        return torch.no_grad()


@torch.no_grad()
def complete_gradients(parameters: Sequence[nn.Parameter], scale: LossScale | None) -> list[Tensor]:
    """This process's gradient of every parameter, zeros where no batch reached it, without the loss scale."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if scale is not None:
        torch._foreach_mul_(gradients, 1.0 / scale.value)
    return gradients


def set_rates(optimizer: torch.optim.Optimizer, groups: Sequence[Mapping[str, Any]], factor: float) -> None:
    """Every group's rate for the coming update."""
    for group, planned in zip(optimizer.param_groups, groups, strict=True):
        group["lr"] = planned["lr"] * factor


def moment_entries(groups: Sequence[Mapping[str, Any]], optimizer: torch.optim.Optimizer) -> Iterator[Entry]:
    """AdamW's state of parameters that are whole on this process; nothing before the first update."""
    for group in groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            state = optimizer.state.get(parameter, {})
            for key in MOMENTS if state else ():
                tensor = state[key]
                yield Entry("optimizer", f"{key}/{name}", tensor.shape, tensor.dtype, tensor.detach)


def load_moments(
    groups: Sequence[Mapping[str, Any]],
    optimizer: torch.optim.Optimizer,
    moments: Mapping[str, Mapping[str, Tensor]],
    updates: int,
) -> None:
    """Give AdamW its state back; with no updates done there is none."""
    optimizer.state.clear()
    for group, live in zip(groups, optimizer.param_groups, strict=True):
        for name, parameter in zip(group["names"], group["params"], strict=True):
            if not updates:
                continue
            # The fused kernel wants its step counter beside the parameter, the others want it on the host.
            where = parameter.device if live.get("fused") else torch.device("cpu")
            optimizer.state[parameter] = {
                "step": torch.tensor(float(updates), dtype=torch.float32, device=where),
                **{key: moments[key][name].to(parameter.device, torch.float32) for key in MOMENTS},
            }
