"""How a run keeps its weights while it fills its model: in the precision of the run, and under ZeRO-3 in parts.

Under ZeRO-3 each parameter is cut as soon as it has its value, so that no process ever holds more than its own part and
the one tensor it is reading.
"""

# DeepSpeed converts single parameters by a method without a public name.
# pyright: reportPrivateUsage=false

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mmcore.contract.recipe import Stage
from mmcore.train.objective import DTYPES
from mmcore.weights.fill import Keeping


def keeping_of(stage: Stage, device: torch.device, world_size: int) -> Keeping:
    """How this process keeps the weights of a stage.

    Args:
        stage: precision and ZeRO stage.
        device: of this process.
        world_size: number of processes; `mmcore.base.distributed.start` was called.
    """
    dtype = DTYPES[stage.precision]
    if stage.zero < 3 or world_size == 1:
        return Keeping(dtype)
    from mmcore.train.zero import config_of, import_deepspeed

    deepspeed = import_deepspeed(device)
    context = deepspeed.zero.Init(config_dict_or_path=config_of(stage))

    def part(parameter: nn.Parameter) -> None:
        context._convert_to_zero_parameters([parameter])

    def overwrite(parameter: nn.Parameter, value: Tensor) -> None:
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            parameter.data.copy_(value)

    return Keeping(dtype, part, overwrite)


@contextmanager
def whole(model: nn.Module) -> Generator[None, None, None]:
    """Inside, a model that was filled in parts has its whole weights on every process."""
    parts = [parameter for parameter in model.parameters() if hasattr(parameter, "ds_id")]
    if not parts:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(parts):
        yield
