"""Low-rank adapters by peft, put into any module in place, and folded back into plain weights.

`add_lora` leaves the module what it was, with `peft` layers where linear ones were; its parameter names gain
`base_layer`, `lora_A` and `lora_B`. `fold` turns such a state dict into one of the plain module (export, other
families' checkpoints); `merge` does the same to a living module.
"""

# torch has no public name for a module's table of parameters.
# pyright: reportPrivateUsage=false

import re
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from mmcore.contract.recipe import Lora
from mmcore.errors import RecipeError, WeightsError, suggest

ADAPTER = "default"
"""peft's name of the only adapter."""
ALL = "all-linear"
"""The target that stands for every linear layer in scope."""
_A, _B, _BASE = f".lora_A.{ADAPTER}.weight", f".lora_B.{ADAPTER}.weight", ".base_layer"


def add_lora(module: nn.Module, lora: Lora, scope: Sequence[nn.Module] = ()) -> list[str]:
    """Give every linear layer that a target names an adapter whose product starts at zero.

    Weights of adapted layers are frozen; whether anything else trains stays as it was, for `mmcore.train.optim.freeze`
    to say.

    Args:
        module: changed in place.
        lora: rank, alpha, dropout and targets.
        scope: parts of `module` where "all-linear" and leaf names look for layers; by default everywhere.

    Returns:
        The adapted layers.

    Raises:
        RecipeError: a target names no linear layer that can be adapted.
    """
    from peft import LoraConfig, inject_adapter_in_model

    names = _targets(module, lora, scope or (module,))
    trained = {parameter: parameter.requires_grad for parameter in module.parameters()}
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.scale * lora.rank,  # type: ignore[arg-type]  # the factor may be any number
        lora_dropout=lora.dropout,
        bias="none",
        # One expression for whole names: a list would match by the end of a name, in other towers too.
        target_modules="|".join(re.escape(name) for name in names),
    )
    with _seen_as_float32([module.get_submodule(name) for name in names]):
        inject_adapter_in_model(config, module, ADAPTER)
    adapted = {module.get_submodule(f"{name}{_BASE}").weight for name in names}
    for parameter, wanted in trained.items():
        parameter.requires_grad_(wanted and parameter not in adapted)
    return names


@contextmanager
def _seen_as_float32(layers: Sequence[nn.Module]) -> Generator[None, None, None]:
    """Inside, weights kept in half precision look like float32, for peft gives adapters the dtype of their base."""
    kept = {layer: layer._parameters["weight"] for layer in layers}
    half = {layer: weight for layer, weight in kept.items() if weight is not None and weight.itemsize < 4}
    for layer, weight in half.items():
        stand_in = torch.empty((), device=weight.device).expand(weight.shape)  # a shape without memory
        layer._parameters["weight"] = nn.Parameter(stand_in, requires_grad=False)
    try:
        yield
    finally:
        for layer, weight in half.items():
            layer._parameters["weight"] = weight


def without_base(name: str) -> str:
    """What a parameter is called before an adapter is added to its layer."""
    return name.replace(f"{_BASE}.", ".")


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name belongs to an adapter."""
    return ".lora_" in name


def is_adapted(name: str) -> bool:
    """Whether a parameter of this name is what an adapter is added to."""
    return f"{_BASE}." in name


def _targets(module: nn.Module, lora: Lora, scope: Sequence[nn.Module]) -> list[str]:
    """The layers that the targets name, in the module's order."""
    parts = dict(module.named_modules())
    # torch's attention reads the weight of its output layer without calling it: an adapter there would do nothing.
    inner = {f"{name}.out_proj" for name, part in parts.items() if isinstance(part, nn.MultiheadAttention)}
    linear = [name for name, part in parts.items() if isinstance(part, nn.Linear) and name not in inner]
    inside = {id(part) for one in scope for part in one.modules()}
    near = [name for name in linear if id(parts[name]) in inside]
    chosen: set[str] = set()
    for target in lora.targets:
        found = near if target == ALL else [name for name in near if name.rpartition(".")[2] == target]
        found = found or [name for name in linear if fnmatchcase(name, target)]
        if not found:
            raise _names_none(target, linear, near, inner)
        chosen.update(found)
    return [name for name in linear if name in chosen]


def _names_none(target: str, linear: Sequence[str], near: Sequence[str], inner: Collection[str]) -> RecipeError:
    """Why a target names no layer: it is misspelt, a part that holds layers, or inside torch's own attention."""
    leaves = sorted({name.rpartition(".")[2] for name in near})
    do = suggest(target.rpartition(".")[2], leaves, "write a layer's last name, or its whole name")
    why = "no linear layer"
    if any(fnmatchcase(name, target) or name.rpartition(".")[2] == target for name in inner):
        why = "only layers inside torch's own attention, which take no adapter"
    elif below := [name for name in linear if name.startswith(f"{target}.")]:
        why, do = f"a part with {len(below)} linear layers, no layer", f"write '{target}.*' to adapt all of them"
    elif below := [name for name in linear if f".{target}." in f".{name}"]:
        why, do = f"parts with {len(below)} linear layers, no layer", f"write '*.{target}.*' to adapt all of them"
    return RecipeError(f"lora.targets: {target!r} names {why}", known=[ALL, *leaves], do=do)


@torch.no_grad()
def merge(module: nn.Module) -> nn.Module:
    """Fold every adapter into its layer's weight and leave plain linear layers; the module itself is returned."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in list(module.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            parent, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(parent), leaf, layer.get_base_layer())
    return module


def fold(state: Mapping[str, Tensor], lora: Lora) -> dict[str, Tensor]:
    """The plain module's state dict: adapted weights become W + scale · B A, computed in float32.

    Args:
        state: of a module after `add_lora`; one without adapters is returned as it is.
        lora: the recipe they were made with.

    Raises:
        WeightsError: an adapter lacks one of its parts, or has another rank.
    """
    plain = {name.replace(f"{_BASE}.", "."): value for name, value in state.items() if ".lora_" not in name}
    for name, down in state.items():
        if not name.endswith(_A):
            continue
        layer = name.removesuffix(_A)
        up, weight = state.get(f"{layer}{_B}"), plain.get(f"{layer}.weight")
        if up is None or weight is None:
            raise WeightsError(f"the adapter of {layer} is incomplete", known=[n for n in state if n.startswith(layer)])
        if len(down) != lora.rank:
            raise WeightsError(
                f"the adapter of {layer} has rank {len(down)}, the recipe {lora.rank}", do="set lora.rank to match"
            )
        update = (up.float() @ down.float()) * lora.scale
        # A base kept in half precision does not round the update away.
        plain[f"{layer}.weight"] = (weight.float() + update).to(torch.promote_types(weight.dtype, up.dtype))
    return plain
