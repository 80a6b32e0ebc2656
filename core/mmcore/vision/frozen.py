"""Frozen published networks beside the model: where their files lie, and a transformers module from their tensors."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmcore.base import hub
from mmcore.errors import WeightsError


def find_weights(name: str, root: Path, also: Sequence[str] = ()) -> Path | None:
    """A network's file or folder on this machine: absolute, below the data root, in its folder `weights`, fetched
    before, or None.

    Args:
        name: a path, or a name on the Hub, whose last part is looked up in `weights`.
        root: data root.
        also: further places in `weights`, for a network that is part of a larger folder.
    """
    if not hub.is_hub(name):
        path = root / Path(name).expanduser()
        return path if path.exists() else None
    local = [root / "weights" / place for place in (name.rsplit("/", 1)[-1], *also)]
    return next((path for path in local if path.exists()), None) or hub.fetched(name)


def weight_files(path: Path) -> tuple[Path, ...]:
    """The files of a checkpoint: itself, or those of a folder that decide its values, in order."""
    if path.is_file():
        return (path,)
    found = sorted(path.glob("*.safetensors")) or sorted(path.glob("*.bin"))
    return (*found, *(path / name for name in ("config.json", "preprocessor_config.json") if (path / name).is_file()))


def load_published(kind: Any, config: Any, tensors: Mapping[str, Tensor], label: str) -> nn.Module:
    """A frozen transformers module with tensors under the names of its published files.

    Those names are stable; what a module calls its parameters in memory changes from one version to the next, and
    `from_pretrained` knows how.

    Raises:
        WeightsError: tensors are missing, misshapen or left over; names them.
    """
    try:
        with quiet():
            module, told = kind.from_pretrained(
                None, config=config, state_dict=dict(tensors), output_loading_info=True, dtype=torch.float32
            )
    except RuntimeError as error:
        raise WeightsError(f"the weights do not fit: {str(error).strip().splitlines()[-1]}", where=label) from error
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := sorted(map(str, told.get(problem) or ())):
            raise WeightsError(
                f"{len(names)} {problem.replace('_keys', '')} tensors: {', '.join(names[:3])}",
                where=label,
                do="check that the files are those of this network",
            )
    return freeze(module)


def freeze(module: nn.Module) -> nn.Module:
    """Evaluation mode, no gradients."""
    return module.eval().requires_grad_(False)


def is_frozen(module: nn.Module) -> bool:
    """Whether nothing of a module is trained."""
    return not any(parameter.requires_grad for parameter in module.parameters())


class quiet:  # noqa: N801 a context
    """Keep transformers' report and progress bar of loading to itself; what is wrong becomes an error."""

    def __enter__(self) -> None:
        from transformers.utils import logging

        self._logging = logging
        self._level = logging.get_verbosity()
        self._bar = logging.is_progress_bar_enabled()
        logging.set_verbosity(50)  # critical
        logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        self._logging.set_verbosity(self._level)
        if self._bar:
            self._logging.enable_progress_bar()
