"""Checkpoints that are whole or not there, in one format for every engine: safetensors and JSON, no pickle.

    RUN/checkpoints/step-00001000/
        model.safetensors        weights under the model's own names; several processes write a part each,
                                 model-00001-of-00002.safetensors, with model.safetensors.index.json
        optimizer.safetensors    AdamW's exp_avg/<name> and exp_avg_sq/<name>, cut the same way
        state.json               the position and everything that is not a tensor
        manifest.json            size and SHA-256 of the files above; written last
    RUN/checkpoints/last, best   one line each: the name of a checkpoint

Tensors are whole and keyed by parameter, whatever ZeRO had done to them, so a checkpoint of any engine and any number
of processes is continued by any other, and the weights need no conversion. Everything is written under a temporary
name, forced to disk, and renamed; the manifest is verified before anything is read from or trusted to a checkpoint.
"""

import errno
import os
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmcore.base import distributed
from mmcore.base.files import Written, replace_text, sync_folder, write_json
from mmcore.base.jsonfile import read_json
from mmcore.base.tensorfile import Slot, StoredTensors, write_safetensors
from mmcore.errors import CheckpointError
from mmcore.train.engine import MOMENTS, Engine, Entry
from mmcore.train.stored import (
    FOLDER,
    MANIFEST,
    STATE,
    find,
    is_checkpoint,
    name_of,
    path_of,
    problem,
    state_of,
    steps_of,
)

__all__ = ["Loaded", "check_fits", "load", "load_weights", "path_of", "save", "steps_of"]

VERSION = 1
"""Of the checkpoint format."""

_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A verified checkpoint; tensors are read from the files when taken."""

    path: Path
    step: int
    state: Mapping[str, Any]
    weights: StoredTensors
    """By the names of the model's state dict."""
    moments: Mapping[str, Mapping[str, Tensor]]
    """By `MOMENTS`, then by parameter."""


# Writing


def save(run_dir: Path, step: int, engine: Engine, state: Mapping[str, Any]) -> Path:
    """Write the checkpoint of `step`; every process calls it. An existing one of this step is kept when it is whole.

    Raises:
        CheckpointError: it cannot be written (disk full, no permission); older checkpoints are untouched.
    """
    here = distributed.place()
    folder = run_dir / FOLDER
    target = folder / name_of(step)
    temporary = folder / f".{target.name}.tmp"
    written: list[Written] = []
    exists = distributed.broadcast_json(here.is_first and target.is_dir() and problem(target) is None)
    if exists:
        return target
    with _together(temporary, here):
        if here.is_first:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
    with _together(temporary, here):
        written = _write_tensors(temporary, engine, here)
        if here.is_first:
            written.append(write_json(temporary / STATE, {"version": VERSION, "step": step, **state}))
            written += _write_indexes(temporary, engine, here)
    everything = distributed.gather_json([[file.name, file.size, file.sha256] for file in written])
    with _together(temporary, here):
        if everything is not None:
            files = {name: {"bytes": size, "sha256": digest} for part in everything for name, size, digest in part}
            write_json(temporary / MANIFEST, {"version": VERSION, "step": step, "files": dict(sorted(files.items()))})
            sync_folder(temporary)
            if target.exists():  # a damaged one of this step
                shutil.rmtree(target)
            temporary.rename(target)
            sync_folder(folder)
            sync_folder(run_dir)
            replace_text(folder / "last", target.name + "\n")
    return target


class _together:  # noqa: N801 reads as a statement
    """A part of a save that succeeds or fails on all processes; on failure the temporary folder goes."""

    def __init__(self, temporary: Path, here: distributed.Place) -> None:
        self.temporary, self.here = temporary, here

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None and not isinstance(error, OSError):
            return
        reports = distributed.all_gather_json(None if error is None else _describe(error))
        failed = [(rank, report) for rank, report in enumerate(reports) if report]
        if not failed:
            return
        if self.here.is_first:
            shutil.rmtree(self.temporary, ignore_errors=True)
        rank, report = failed[0]
        raise _cannot_write(report["errno"], report["text"], self.temporary.parent, rank) from None


def _describe(error: OSError) -> dict[str, Any]:
    name = f": {os.path.basename(os.fsdecode(error.filename))}" if error.filename else ""
    return {"errno": error.errno, "text": f"{error.strerror or error}{name}"}


def _cannot_write(number: int | None, text: str, where: Path, rank: int) -> CheckpointError:
    full = number in _FULL
    return CheckpointError(
        "the disk is full: nothing more can be saved" if full else f"cannot save: {text}",
        where=f"{where}, process {rank}",
        known="earlier checkpoints are untouched",
        do=("free space, or lower keep_last" if full else "check the folder's permissions")
        + ", then go on with `mmcore train --resume`",
    )


@contextmanager
def explaining_full_disk(run_dir: Path) -> Generator[None, None, None]:
    """Turn a full disk met anywhere (metrics, log) into a message.

    Raises:
        CheckpointError: in place of the OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise _cannot_write(error.errno, "", run_dir, distributed.place().rank) from error


def _write_tensors(folder: Path, engine: Engine, here: distributed.Place) -> list[Written]:
    """Each process writes a share of the tensors; under ZeRO all take part in making each whole."""
    entries = list(engine.tensors())
    owners = _share_out(entries, here.world_size)
    gets: list[Callable[[], Tensor]] = [entry.get for entry in entries]
    if here.world_size > 1:
        # Collective: everybody asks for every tensor in the same order, the owner keeps it. All of it comes before the
        # first write, so that a full disk on one process does not leave the others waiting in a gather.
        kept = [_keep(entry, owner == here.rank) for entry, owner in zip(entries, owners, strict=True)]
        gets = [_constant(tensor) for tensor in kept]
    slots: dict[str, list[Slot]] = {"model": [], "optimizer": []}
    for entry, owner, get in zip(entries, owners, gets, strict=True):
        if owner == here.rank:
            slots[entry.file].append(Slot(entry.name, entry.shape, entry.dtype, get))
    return [write_safetensors(folder / _part(kind, here.rank, here.world_size), part) for kind, part in slots.items()]


def _keep(entry: Entry, mine: bool) -> Tensor | None:
    tensor = entry.get()
    return tensor.detach().to("cpu", copy=True) if mine else None


def _constant(tensor: Tensor | None) -> Callable[[], Tensor]:
    return lambda: tensor if tensor is not None else torch.empty(0)


def _share_out(entries: Sequence[Entry], world_size: int) -> list[int]:
    """Which process writes each tensor: the one with the least to write so far."""
    loads = [0] * world_size
    owners = []
    for entry in entries:
        owner = loads.index(min(loads))
        loads[owner] += entry.nbytes
        owners.append(owner)
    return owners


def _part(kind: str, rank: int, world_size: int) -> str:
    return f"{kind}.safetensors" if world_size == 1 else f"{kind}-{rank + 1:05d}-of-{world_size:05d}.safetensors"


def _write_indexes(folder: Path, engine: Engine, here: distributed.Place) -> list[Written]:
    """The usual index beside weights in several parts, so that other tools can open them."""
    if here.world_size == 1:
        return []
    entries = list(engine.tensors())
    owners = _share_out(entries, here.world_size)
    pairs = [(entry, owner) for entry, owner in zip(entries, owners, strict=True) if entry.file == "model"]
    index = {
        "metadata": {"total_size": sum(entry.nbytes for entry, _ in pairs)},
        "weight_map": {entry.name: _part("model", owner, here.world_size) for entry, owner in pairs},
    }
    return [write_json(folder / "model.safetensors.index.json", index)]


# Reading


def load(run_dir: Path, which: str | int = "last", *, verify: bool = True) -> Loaded:
    """Open a checkpoint.

    Args:
        run_dir: the run folder, or a checkpoint folder itself.
        which: "last" (the newest), "best" or a step.
        verify: False where another process has just verified it.

    Raises:
        CheckpointError: it does not exist, is damaged, or is of a newer format.
    """
    path = run_dir if is_checkpoint(run_dir) else path_of(run_dir, find(run_dir, which))
    fault = (problem(path) if verify else None) if path.is_dir() else "there is no such folder"
    if fault:
        raise CheckpointError(
            f"checkpoint {path.name} is damaged: {fault}", where=path, do="choose another one with --checkpoint"
        )
    state = state_of(path)
    if state["version"] > VERSION:
        raise CheckpointError(
            f"checkpoint format {state['version']} is newer than this mmcore reads ({VERSION})",
            where=path,
            do="upgrade mmcore",
        )
    names = sorted(read_json(path / MANIFEST, {"files": dict})["files"])
    files = {
        kind: [path / name for name in names if name.startswith(kind) and name.endswith(".safetensors")]
        for kind in ("model", "optimizer")
    }
    moments = {key: StoredTensors(files["optimizer"], f"{key}/") for key in MOMENTS}
    return Loaded(path, int(state["step"]), state, StoredTensors(files["model"]), moments)


def load_weights(run_dir: Path, which: str | int = "last") -> dict[str, Tensor]:
    """The weights of a run's checkpoint on the CPU, under the model's own names; see `load`."""
    return dict(load(run_dir, which).weights)


def check_fits(loaded: Loaded, model: torch.nn.Module) -> None:
    """Whether a checkpoint belongs to this model.

    Raises:
        CheckpointError: names or shapes differ; names the first ones.
    """
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    theirs = {name: loaded.weights.shape(name) for name in loaded.weights}
    differing = sorted(name for name in own.keys() | theirs.keys() if own.get(name) != theirs.get(name))
    if differing:
        name = differing[0]
        raise CheckpointError(
            f"the checkpoint does not fit the model: {name} is {theirs.get(name, 'missing')} in the checkpoint and "
            f"{own.get(name, 'missing')} in the model" + (f", and {len(differing) - 1} more" * (len(differing) > 1)),
            where=loaded.path,
            do="resume with the config.yaml and the plugin version that the run was started with",
        )
