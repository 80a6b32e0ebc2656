"""Low-rank adapters by peft, put into any module in place, and folded back into plain weights.

`add_lora` leaves the module what it was, with `peft` layers where linear ones were; its parameter names gain
`base_layer`, `lora_A` and `lora_B`. `fold` turns such a state dict into one of the plain module (export, other
families' checkpoints); `merge` does the same to a living module.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmcore.contract.recipe import Lora, matches_any
from mmcore.errors import RecipeError, WeightsError, suggest

ADAPTER = "default"
"""peft's name of the only adapter."""
_A, _B, _BASE = f".lora_A.{ADAPTER}.weight", f".lora_B.{ADAPTER}.weight", ".base_layer"


def add_lora(module: nn.Module, lora: Lora) -> list[str]:
    """Give every linear layer that a target names an adapter whose product starts at zero.

    Weights of adapted layers are frozen; whether anything else trains stays as it was, for the recipe's patterns to
    say (GLaMM trains embeddings and heads beside its adapters).

    Args:
        module: changed in place.
        lora: rank, alpha, dropout, and patterns of layer names: "*.q_proj" or a whole name.

    Returns:
        The adapted layers.

    Raises:
        RecipeError: a target names no linear layer.
    """
    from peft import LoraConfig, inject_adapter_in_model

    linear = [name for name, part in module.named_modules() if isinstance(part, nn.Linear)]
    for target in lora.targets:
        if not any(matches_any([target], name) for name in linear):
            leaves = sorted({name.rsplit(".", 1)[-1] for name in linear})
            otherwise = 'write a layer\'s whole name, or "*.q_proj" for all such layers'
            raise RecipeError(
                f"lora.targets: no linear layer is called {target!r}",
                known=leaves,
                do=suggest(target.rsplit(".", 1)[-1], leaves, otherwise),
            )
    names = [name for name in linear if matches_any(lora.targets, name)]
    trained = {parameter: parameter.requires_grad for parameter in module.parameters()}
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # the factor alpha / rank may be any number
        lora_dropout=lora.dropout,
        bias="none",
        # One expression for whole names: a list would match by the end of a name, in other towers too.
        target_modules="|".join(re.escape(name) for name in names),
    )
    inject_adapter_in_model(config, module, ADAPTER)
    adapted = {module.get_submodule(f"{name}{_BASE}").weight for name in names}
    for parameter, wanted in trained.items():
        parameter.requires_grad_(wanted and parameter not in adapted)
    return names


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
    """The plain module's state dict: adapted weights become W + alpha / rank · B A, computed in float32.

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
        update = (up.float() @ down.float()) * (lora.alpha / lora.rank)
        plain[f"{layer}.weight"] = (weight.float() + update).to(weight.dtype)
    return plain
