"""The memory of one training step, followed without it: a skeleton's forward and backward pass on meta.

Every tensor that the step creates is entered when it appears and struck out when the last reference to it goes, as an
allocator would; meta tensors have sizes and no contents, so a model of any size is traced on a laptop. What the data
decides (indices, masks, plans) stays real and is computed; a real tensor that meets a meta one becomes meta. What the
weights would decide is not known: a value that the host asks for is read as zero, so a matcher pairs some queries with
the objects, as many as it would.

Autocast knows no meta device, so its casts are made here, for the operations that autocast runs in low precision.
"""

# torch has no public name for the number of a storage, nor for its engine.
# pyright: reportPrivateUsage=false

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary, finalize

import torch
from torch import Tensor, nn
from torch.autograd.graph import _engine_run_backward
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_any, tree_leaves, tree_map_only

from mmcore.contract.values import Batch
from mmcore.contract.values.batch import map_tensors

_LOW = {
    F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose2d, F.scaled_dot_product_attention, torch.matmul, torch.bmm,
    torch.mm, torch.addmm, torch.baddbmm, torch.einsum, Tensor.matmul, Tensor.__matmul__, Tensor.bmm, Tensor.mm,
}  # fmt: skip
"""What autocast runs in the run's precision."""
_HOST = {
    Tensor.item, Tensor.tolist, Tensor.numpy, Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__,
    Tensor.cpu,
}  # fmt: skip
"""How a value reaches the host."""


@dataclass(slots=True)
class Traced:
    """Bytes of one forward and backward pass of one micro-batch, weights and optimiser not counted."""

    peak: int = 0
    """Most that was alive at once: activations, gradients, what lies between."""
    gradients: int = 0
    """What stays: gradients of the parameters."""
    by_module: dict[str, int] = field(default_factory=dict)
    """What each part of the model had added when its forward pass ended, parts in the order in which they ran."""


def trace_step(model: nn.Module, batch: Batch, loss: Callable[[Batch], Tensor], dtype: torch.dtype | None) -> Traced:
    """Follow one micro-batch.

    Args:
        model: a skeleton in training mode, frozen as the run would; its gradients are left on it.
        batch: a real one.
        loss: the objective to differentiate.
        dtype: what autocast would run in; None is float32.

    Raises:
        RuntimeError, NotImplementedError: the model decides something that zeros do not allow.
    """
    ledger = _Ledger()
    _to_meta(model)
    with ExitStack() as stack:
        stack.enter_context(_parts(model, ledger))
        stack.enter_context(ledger)
        meeting = stack.enter_context(_Meeting(dtype))
        stack.enter_context(_autocast_on_meta(meeting))
        held = map_tensors(batch, lambda tensor: tensor.clone())
        total = loss(held)
        if total.requires_grad:
            # Not by `Tensor.backward`: that call would be met as one operation and nothing inside it, where layers that
            # are recomputed run.
            _engine_run_backward((total,), (torch.ones_like(total),), False, False, (), True, True)
        del total, held
    gradients = {p.grad.untyped_storage() for p in model.parameters() if p.grad is not None}
    return Traced(ledger.peak, sum(storage.nbytes() for storage in gradients), dict(ledger.by_module))


class _Ledger(TorchDispatchMode):
    """Storages that are alive, and the most there ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self.by_module: dict[str, int] = {}
        self._known: WeakKeyDictionary[Any, None] = WeakKeyDictionary()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        known = [t.untyped_storage() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        result = func(*args, **(kwargs or {}))
        old = {storage._cdata for storage in known}
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in old:
                    self._enter(storage)
        return result

    def _enter(self, storage: Any) -> None:
        if storage in self._known:
            return
        self._known[storage] = None
        size = storage.nbytes()
        self.alive += size
        self.peak = max(self.peak, self.alive)
        finalize(storage, self._leave, size)

    def _leave(self, size: int) -> None:
        self.alive -= size


class _Meeting(TorchFunctionMode):
    """Real tensors become meta where they meet meta ones, host reads are zeros, matrices in low precision."""

    def __init__(self, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.dtype = dtype
        self.casting = dtype is not None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        args, kwargs = tuple(args), dict(kwargs or {})
        if not tree_any(_is_meta, (args, kwargs)):
            return func(*args, **kwargs)
        if func in _HOST or (func is Tensor.to and _leaves_device(args, kwargs)):
            zeros = torch.zeros(args[0].shape, dtype=args[0].dtype)
            return zeros if func in (Tensor.cpu, Tensor.to) else func(zeros)
        if func in (Tensor.__getitem__, Tensor.__setitem__) and not _is_meta(args[1]):
            index = tuple(_positions(args[1] if isinstance(args[1], tuple) else (args[1],)))
            args = (args[0], index, *args[2:])
        met: tuple[tuple[Any, ...], dict[str, Any]] = tree_map_only(Tensor, _meta, (args, kwargs))
        if self.casting and func in _LOW:
            met = tree_map_only(Tensor, self._low, met)
        return func(*met[0], **met[1])

    def _low(self, tensor: Tensor) -> Tensor:
        assert self.dtype is not None
        return tensor.to(self.dtype) if tensor.dtype == torch.float32 else tensor


@contextmanager
def _autocast_on_meta(meeting: _Meeting) -> Generator[None, None, None]:
    """torch's questions about autocast answered for meta, where it has no answers, and its regions obeyed."""
    usual, enabled, dtype_of = torch.autocast, torch.is_autocast_enabled, torch.get_autocast_dtype

    @contextmanager
    def region(device_type: str, dtype: Any = None, enabled: bool = True, **rest: Any) -> Generator[None, None, None]:
        if device_type != "meta":
            with usual(device_type, dtype=dtype, enabled=enabled, **rest):
                yield
            return
        before = meeting.casting
        meeting.casting = enabled and meeting.dtype is not None
        try:
            yield
        finally:
            meeting.casting = before

    def is_enabled(device_type: str | None = None) -> bool:
        return meeting.casting if device_type == "meta" else enabled(*([device_type] if device_type else []))

    def dtype_on(device_type: str) -> torch.dtype:
        return (meeting.dtype or torch.float32) if device_type == "meta" else dtype_of(device_type)

    torch.autocast, torch.is_autocast_enabled, torch.get_autocast_dtype = region, is_enabled, dtype_on  # type: ignore
    try:
        yield
    finally:
        torch.autocast, torch.is_autocast_enabled, torch.get_autocast_dtype = usual, enabled, dtype_of  # type: ignore


def _is_meta(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_meta


def _meta(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_meta else tensor.to("meta")


def _leaves_device(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    wanted = [*args[1:], *kwargs.values()]
    return any(str(value).startswith("cpu") for value in wanted if isinstance(value, (str, torch.device)))


def _positions(index: Sequence[Any]) -> Generator[Any, None, None]:
    """An index whose real masks are positions: how many there are decides a shape."""
    for one in index:
        if isinstance(one, Tensor) and not one.is_meta and one.dtype in (torch.bool, torch.uint8):
            yield from one.nonzero(as_tuple=True)
        else:
            yield one


def _to_meta(model: nn.Module) -> None:
    """Parameters that are not there yet are on meta already; buffers stay real, as they are made of numbers."""
    for parameter in model.parameters():
        assert parameter.is_meta, "only skeletons are traced"


@contextmanager
def _parts(model: nn.Module, ledger: _Ledger) -> Generator[None, None, None]:
    """Enter into the ledger what each top-level part leaves behind when its forward pass ends."""
    began: dict[str, int] = {}
    with ExitStack() as stack:
        for name, part in model.named_children():

            def enter(_: Any, __: Any, name: str = name) -> None:
                began[name] = ledger.alive

            def leave(_: Any, __: Any, ___: Any, name: str = name) -> None:
                if name in began:
                    grown = ledger.alive - began.pop(name)
                    ledger.by_module[name] = ledger.by_module.get(name, 0) + grown

            stack.callback(part.register_forward_pre_hook(enter).remove)
            stack.callback(part.register_forward_hook(leave).remove)
        yield
