"""The engine for several processes: DeepSpeed's ZeRO 0 to 3, fed so that processes may differ in what they compute.

DeepSpeed reduces gradients from hooks, in the order in which they arrive, into flat buckets. Two processes whose
batches take other paths through the model (masks here, boxes only there) then reduce other sets in another order:
they hang, or add one parameter's gradient to another's. So nothing is reduced during the backward pass. Each process
gathers its own gradients of the whole step (`coalesce_grad_reduction`), fills in zeros where nothing arrived, and only
then are all parameters reduced, in the order of the parameter groups, which is the same everywhere.

ZeRO-3 also gathers weights as modules are entered, which must happen in the same order everywhere. A family whose
paths differ says so with `zero3_leaves`; if that is the whole model, it is gathered as one unit.

Weights are float32 and the forward pass runs under autocast, as in the plain engine; so both give the same numbers.
The cost: a step's gradients stay whole on each process until they are reduced (ZeRO-2 and 3 divide only what follows).
"""

# torch's list operations and hook tables have no public names.
# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false

import contextlib
import math
import os
from collections.abc import Generator, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmcore.contract.model import Model
from mmcore.contract.recipe import Stage
from mmcore.contract.values import Batch
from mmcore.train.engine import MOMENTS, Entry, LossScale, load_moments, moment_entries, set_rates
from mmcore.train.objective import Objective
from mmcore.train.optim import adamw, parameter_groups

BUCKET = 2**26
"""Elements that are reduced or gathered in one message; a power of two, as DeepSpeed aligns them."""


class DeepSpeedEngine:
    """One of several processes (or a single one, on request); `distributed.start` was called before."""

    def __init__(self, model: nn.Module, stage: Stage, device: torch.device) -> None:
        deepspeed = import_deepspeed(device)
        self._deepspeed = deepspeed
        self.device = device
        self.model = model
        self.zero = stage.zero
        self.world_size = dist.get_world_size()
        self.objective = Objective(model, stage.precision)
        self.groups = parameter_groups(model, stage)
        self.parameters = [parameter for group in self.groups for parameter in group["params"]]
        self._names = dict(model.named_parameters(remove_duplicate=False))
        self.shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        self.shapes |= {name: whole_shape(parameter) for name, parameter in self._names.items()}
        self.clip = stage.optim.clip_grad_norm
        self.loss_scale = LossScale() if stage.precision == "fp16" else None
        self.updates = 0
        if stage.zero == 3:
            _mark_leaves(deepspeed, self.objective, model)
        model.to(device)
        self._engine, _, _, _ = deepspeed.initialize(
            model=self.objective,
            optimizer=adamw(self.groups, stage),
            config=config_of(stage, sum(math.prod(whole_shape(parameter)) for parameter in self.parameters)),
            dist_init_required=False,
        )
        self.optimizer: torch.optim.Optimizer = getattr(self._engine.optimizer, "optimizer", self._engine.optimizer)
        # A zero that asks for a gradient: it ties every batch to the graph, so that the hooks that gather and release
        # weights in the backward pass run on every process.
        self._anchor = torch.zeros((), device=device, requires_grad=True) if stage.zero == 3 else None
        self._collecting = contextlib.ExitStack()
        self._is_collecting = False
        self._norm: float | Tensor = 0.0

    # One step

    def forward(self, batch: Batch, divisors: Mapping[str, float]) -> Tensor:
        self._collect()
        if self.zero == 0:  # DeepSpeed's forward allows no backward but its own, which would reduce at once
            return self.objective(batch, divisors)
        return self._engine(batch, divisors, self._anchor)

    def backward(self, loss: Tensor) -> None:
        if loss.requires_grad:
            # DeepSpeed averages over processes; the divisors already hold the whole world.
            scale = self.world_size * (self.loss_scale.value if self.loss_scale else 1.0)
            if self.zero == 0:
                (loss * scale).backward()
            else:
                self._engine.backward(loss * scale, scale_wrt_gas=False)

    def health(self, loss: Tensor) -> tuple[float, float]:
        gradients = self._complete()
        # No process has been given another's gradient yet. Where every local norm is finite and their sum has a finite
        # square, the reduced gradient and its norm are finite too, so nothing can go wrong after this point.
        norm = torch.nn.utils.get_total_norm(gradients) / self.world_size
        both = torch.stack([loss.to(norm), norm])
        dist.all_reduce(both)
        both[1] = (both[1] * both[1]).sqrt()
        total, norms = both.tolist()
        return total, norms

    def step(self, factor: float) -> None:
        set_rates(self.optimizer, self.groups, factor)
        self._reduce()
        if self.zero == 0 and self.clip is not None:
            self._norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        elif self.zero == 0:
            self._norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        self._engine.step()
        if self.zero:
            self._norm = self._engine.get_global_grad_norm()
        self.updates += 1

    def drop(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None
        self._collecting.close()  # reduces nothing: there are no gradients
        self._is_collecting = False
        self._engine.optimizer.zero_grad()

    def grad_norm(self) -> float:
        return float(self._norm)

    def learning_rates(self) -> list[float]:
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def _collect(self) -> None:
        """From here to `_reduce`, gradients stay on this process."""
        if self.zero and not self._is_collecting:
            self._collecting.enter_context(self._engine.coalesce_grad_reduction())
        self._is_collecting = True

    def _reduce(self) -> None:
        """Average every gradient over the processes, in the order of the parameter groups."""
        if self.zero:
            self._collecting.close()
        else:
            self._engine.allreduce_gradients()
        self._is_collecting = False

    @torch.no_grad()
    def _complete(self) -> list[Tensor]:
        """This process's gradient of every parameter, zeros where no batch reached it, without the loss scale."""
        for parameter in self.parameters:
            shape = whole_shape(parameter)
            if parameter.grad is None or parameter.grad.shape != shape:
                _set_gradient(parameter, torch.zeros(shape, dtype=parameter.dtype, device=self.device))
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        if self.loss_scale is not None:
            torch._foreach_mul_(gradients, 1.0 / self.loss_scale.value)
        return gradients

    # Checkpoints

    def tensors(self) -> Iterator[Entry]:
        for name, tensor in self.model.state_dict().items():
            get = tensor.detach if self.zero < 3 or name not in self._names else self._gather(name)
            yield Entry("model", name, self.shapes[name], tensor.dtype, get)
        if self.zero == 0:
            yield from moment_entries(self.groups, self.optimizer)
        elif self.updates:
            self._link_moments()
            yield from self._moments()

    def _moments(self) -> Iterator[Entry]:
        from deepspeed.utils import safe_get_full_optimizer_state

        for group in self.groups:
            for name, parameter in zip(group["names"], group["params"], strict=True):
                for key in MOMENTS:
                    get = _bind(safe_get_full_optimizer_state, parameter, key)
                    yield Entry("optimizer", f"{key}/{name}", self.shapes[name], torch.float32, get)

    def _link_moments(self) -> None:
        """Show DeepSpeed where each parameter's moments lie (ZeRO 1 and 2).

        It does so itself after the first group's first update, when the other groups have none yet.
        """
        if self.zero == 3:
            return
        for group, live in zip(self.groups, self.optimizer.param_groups, strict=True):
            flat = live["params"][0]
            for parameter in group["params"]:
                if parameter._hp_mapping is not None:
                    parameter._hp_mapping.set_optim_state_fragment(flat, self.optimizer.state[flat])

    def _gather(self, name: str) -> Any:
        def whole() -> Tensor:
            with self._deepspeed.zero.GatheredParameters([self._names[name]]):
                return self._names[name].detach().clone()

        return whole

    def load_moments(self, moments: Mapping[str, Mapping[str, Tensor]], updates: int) -> None:
        self.updates = updates
        if self.zero == 0 or not updates:
            load_moments(self.groups, self.optimizer, moments, updates)
            return
        self._prime()
        self._link_moments()
        for group in self.groups:
            for name, parameter in zip(group["names"], group["params"], strict=True):
                for key in MOMENTS:
                    self._put_moment(parameter, key, moments[key][name].to(self.device, torch.float32))
        for state in self.optimizer.state.values():
            state["step"].fill_(float(updates))

    def _prime(self) -> None:
        """One update with rate and gradient zero: it changes no weight, and DeepSpeed then has its optimiser state."""
        self._collect()
        self._complete()
        set_rates(self.optimizer, self.groups, 0.0)
        self._reduce()
        self._engine.step()

    def _put_moment(self, parameter: nn.Parameter, key: str, whole: Tensor) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        if self.zero < 3:
            safe_set_full_optimizer_state(parameter, whole, key)
            return
        size = -(-whole.numel() // self.world_size)
        padded = torch.zeros(size * self.world_size, dtype=whole.dtype, device=whole.device)
        padded[: whole.numel()] = whole.flatten()
        safe_set_local_optimizer_state(parameter, padded[dist.get_rank() * size :][:size], key)

    # Evaluation

    @contextlib.contextmanager
    def evaluating(self) -> Generator[None, None, None]:
        with torch.no_grad(), contextlib.ExitStack() as stack:
            if self.zero == 3:
                # Processes evaluate different numbers of batches, so weights may not be gathered call by call.
                stack.enter_context(self._deepspeed.zero.GatheredParameters(list(self.model.parameters())))
                stack.enter_context(_without_hooks(self.model))
            yield


def whole_shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """Shape of a parameter, also when ZeRO-3 has left this process a part of it."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def import_deepspeed(device: torch.device) -> Any:
    """DeepSpeed, told of its device, with the process group it needs."""
    os.environ.setdefault("DS_LOG_LEVEL", "error")
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if device.type == "cuda" else "cpu")
    import deepspeed
    from deepspeed import comm

    # On a CPU it would compile a shared-memory kernel now, and add in another order than Gloo. No compiler is needed.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not dist.is_initialized():  # a single process, which DeepSpeed wants to see launched all the same
        os.environ.setdefault("LOCAL_RANK", "0")
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    if not comm.is_initialized():
        comm.init_distributed(dist_backend="nccl" if device.type == "cuda" else "gloo", dist_init_required=False)
    return deepspeed


def config_of(stage: Stage, trainable: int = BUCKET) -> dict[str, Any]:
    """What DeepSpeed is told: reduction and update are its, everything else is the loop's."""
    zero: dict[str, Any] = {
        "stage": stage.zero,
        "overlap_comm": False,  # nothing is reduced while the backward pass runs
        "contiguous_gradients": True,
        # The reduction buffer is allocated whole, so a small model gets a small one.
        "reduce_bucket_size": max(min(BUCKET, trainable), 1),
        "allgather_bucket_size": BUCKET,
    }
    if stage.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        # Batches and accumulation are the loop's; DeepSpeed sees one reduction and one update a step.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": (stage.optim.clip_grad_norm or 0.0) if stage.zero else 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
    }


def _mark_leaves(deepspeed: Any, objective: Objective, model: nn.Module) -> None:
    for leaf in model.zero3_leaves() if isinstance(model, Model) else ():
        deepspeed.utils.set_z3_leaf_module(objective if leaf is model else leaf, True)


def _set_gradient(parameter: nn.Parameter, gradient: Tensor) -> None:
    """Give a parameter a whole gradient although ZeRO-3 has taken its data away."""
    data = parameter.data
    parameter.grad = None
    parameter.data = gradient
    parameter.grad = gradient
    parameter.data = data


def _bind(function: Any, *arguments: Any) -> Any:
    return lambda: function(*arguments)


@contextlib.contextmanager
def _without_hooks(model: nn.Module) -> Generator[None, None, None]:
    """The modules' forward hooks out of the way, so that they neither gather nor release weights."""
    kept = [(module, module._forward_hooks, module._forward_pre_hooks) for module in model.modules()]
    for module, hooks, _ in kept:
        module._forward_hooks, module._forward_pre_hooks = type(hooks)(), type(hooks)()
    try:
        yield
    finally:
        for module, hooks, pre_hooks in kept:
            module._forward_hooks, module._forward_pre_hooks = hooks, pre_hooks
