"""Models without memory: built by their own constructors, but with every parameter on meta and every buffer real.

What a model weighs and how it is wired is known from a skeleton at no cost; `mmcore.weights.fill` gives it its values
tensor by tensor. Buffers are small and computed from numbers of the configuration (rotary frequencies, statistics of
images), so they are made as always.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.overrides import TorchFunctionMode

_INITIALISERS = frozenset((nn.init.__name__, "transformers.initialization"))
"""Modules of functions that fill; transformers puts its own in the place of torch's while it builds."""
_FILLS = frozenset((Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_))


class _EmptyOnMeta(TorchFunctionMode):
    """`torch.empty`, by which layers ask for room for their weights, gives none; initialisers then have no work.

    On meta they would still be traced operation by operation, half of the time that building a skeleton takes.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if func in _FILLS or getattr(func, "__module__", None) in _INITIALISERS:  # all of these return what they fill
            filled = args[0] if args else options.get("tensor")
            if isinstance(filled, Tensor) and filled.is_meta:
                return filled
        if func is torch.empty and options.get("device") is None:
            options["device"] = "meta"
        return func(*args, **options)


@contextmanager
def skeleton(real: frozenset[int] = frozenset()) -> Generator[list[nn.Parameter], None, None]:
    """Inside, modules get parameters without memory.

    Args:
        real: parameters that are made as always, by their place in the order of registration.

    Yields:
        The parameters in the order in which they were registered, growing as modules are built.
    """
    registered: list[nn.Parameter] = []

    def parameter(module: nn.Module, name: str, given: nn.Parameter | None) -> nn.Parameter | None:
        del module, name
        if given is None:
            return None
        if len(registered) in real:
            made = given if not given.is_meta else _like(given, torch.empty_like(given, device="cpu"))
        else:
            made = given if given.is_meta else _like(given, torch.empty_like(given, device="meta"))
        registered.append(made)
        return made

    def buffer(module: nn.Module, name: str, given: Tensor | None) -> Tensor | None:
        del module, name
        return torch.empty_like(given, device="cpu") if given is not None and given.is_meta else given

    with ExitStack() as stack:
        for handle in (
            # torch's own annotation leaves out that a hook may give something else back.
            register_module_parameter_registration_hook(parameter),  # pyright: ignore[reportArgumentType]
            register_module_buffer_registration_hook(buffer),  # pyright: ignore[reportArgumentType]
        ):
            stack.callback(handle.remove)
        stack.enter_context(_EmptyOnMeta())
        yield registered


def _like(given: nn.Parameter, data: Tensor) -> nn.Parameter:
    made = nn.Parameter(data, requires_grad=given.requires_grad)
    vars(made).update(vars(given))
    return made
