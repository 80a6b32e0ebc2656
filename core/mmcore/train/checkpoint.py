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
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mmcore.errors import CheckpointError
from mmcore.train import distributed
from mmcore.train.engine import MOMENTS, Engine, Entry
from mmcore.train.files import Slot, Written, hash_file, replace_text, sync_folder, write_json, write_safetensors

FOLDER = "checkpoints"
MANIFEST = "manifest.json"
STATE = "state.json"
VERSION = 1
_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A verified checkpoint; tensors are read from the files when taken."""

    path: Path
    step: int
    state: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    moments: Mapping[str, Mapping[str, Tensor]]


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
        full = report["errno"] in (errno.ENOSPC, errno.EDQUOT)
        raise CheckpointError(
            "the disk is full: the checkpoint was not saved" if full else f"cannot save: {report['text']}",
            where=report["file"] or self.temporary.parent,
            known="earlier checkpoints are untouched" + (f"; process {rank} failed" if len(reports) > 1 else ""),
            do="free space and resume with `mmcore train --resume`, or lower keep_last"
            if full
            else "check the folder's permissions and resume with `mmcore train --resume`",
        ) from None


def _describe(error: OSError) -> dict[str, Any]:
    return {"errno": error.errno, "text": error.strerror or str(error), "file": str(error.filename or "")}


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


def mark_best(run_dir: Path, step: int) -> None:
    """Let `best` name the checkpoint of `step`."""
    replace_text(run_dir / FOLDER / "best", name_of(step) + "\n")


def retain(run_dir: Path, *, keep_last: int, keep_every: int | None) -> list[int]:
    """Delete checkpoints that the recipe does not keep, once the newest has been read back and is whole.

    Returns:
        The steps that were deleted.
    """
    steps = steps_of(run_dir)
    kept = set(steps[-keep_last:]) | {named(run_dir, "best"), named(run_dir, "last")}
    kept |= {step for step in steps if keep_every and step % keep_every == 0}
    doomed = [step for step in steps if step not in kept]
    if not doomed or problem(path_of(run_dir, steps[-1])) is not None:
        return []
    for step in doomed:
        # Renamed first: a half-deleted folder must not look like a checkpoint.
        path = path_of(run_dir, step)
        grave = path.with_name(f".{path.name}.deleted")
        shutil.rmtree(grave, ignore_errors=True)
        path.rename(grave)
        shutil.rmtree(grave, ignore_errors=True)
    return doomed


def clean(run_dir: Path) -> None:
    """Remove what interrupted saves and deletions left; only the holder of the run's lock may call it."""
    folder = run_dir / FOLDER
    for path in folder.glob(".step-*") if folder.is_dir() else ():
        shutil.rmtree(path, ignore_errors=True)


# Reading


def name_of(step: int) -> str:
    """Folder name of a step's checkpoint."""
    return f"step-{step:08d}"


def path_of(run_dir: Path, step: int) -> Path:
    """Folder of a step's checkpoint."""
    return run_dir / FOLDER / name_of(step)


def steps_of(run_dir: Path) -> list[int]:
    """Steps that have a checkpoint folder, ascending; whether they are whole is another question."""
    folder = run_dir / FOLDER
    found = (_NAME.fullmatch(path.name) for path in folder.iterdir()) if folder.is_dir() else ()
    return sorted(int(match.group(1)) for match in found if match)


def named(run_dir: Path, pointer: str) -> int | None:
    """The step that `last` or `best` names, or None."""
    path = run_dir / FOLDER / pointer
    match = _NAME.fullmatch(path.read_text(errors="replace").strip()) if path.is_file() else None
    return int(match.group(1)) if match else None


def problem(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None: every file of the manifest is there, of its size and hash."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        files = {str(name): (int(file["bytes"]), str(file["sha256"])) for name, file in manifest["files"].items()}
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} cannot be read"
    if STATE not in files:
        return f"{MANIFEST} names no {STATE}"
    for name, (size, _) in files.items():
        if os.sep in name or not (path / name).is_file():
            return f"{name} is missing"
        if (path / name).stat().st_size != size:
            return f"{name} has {(path / name).stat().st_size} bytes, not {size}"
    for name, expected in files.items():
        if hash_file(path / name) != expected:
            return f"{name} was changed after it was written"
    return None


def last_good(run_dir: Path, say: Callable[[str], None]) -> int | None:
    """The newest step with a whole checkpoint; damaged ones are reported through `say`. None when there is none.

    Raises:
        CheckpointError: there are checkpoints and all are damaged.
    """
    steps = steps_of(run_dir)
    for step in reversed(steps):
        fault = problem(path_of(run_dir, step))
        if fault is None:
            return step
        say(f"checkpoint {name_of(step)} is damaged and passed over: {fault}")
    if steps:
        raise CheckpointError(
            "every checkpoint of this run is damaged",
            where=run_dir / FOLDER,
            known=[name_of(step) for step in steps],
            do="restore one from a copy, or start again in another folder",
        )
    return None


def load(run_dir: Path, which: str | int = "last", *, verify: bool = True) -> Loaded:
    """Open a checkpoint.

    Args:
        run_dir: the run folder, or a checkpoint folder itself.
        which: "last" (the newest), "best" or a step.
        verify: False where another process has just verified it.

    Raises:
        CheckpointError: it does not exist, is damaged, or is of a newer format.
    """
    path = run_dir if _NAME.fullmatch(run_dir.name) else path_of(run_dir, _find(run_dir, which))
    fault = (problem(path) if verify else None) if path.is_dir() else "there is no such folder"
    if fault:
        raise CheckpointError(
            f"checkpoint {path.name} is damaged: {fault}", where=path, do="choose another one with --checkpoint"
        )
    state = json.loads((path / STATE).read_text())
    if state["version"] > VERSION:
        raise CheckpointError(
            f"checkpoint format {state['version']} is newer than this mmcore reads ({VERSION})",
            where=path,
            do="upgrade mmcore",
        )
    files = sorted(json.loads((path / MANIFEST).read_text())["files"])
    moments: dict[str, dict[str, Tensor]] = {key: {} for key in MOMENTS}
    for name, tensor in _read(path, [f for f in files if f.startswith("optimizer") and f.endswith(".safetensors")]):
        key, _, parameter = name.partition("/")
        moments[key][parameter] = tensor
    weights = dict(_read(path, [f for f in files if f.startswith("model") and f.endswith(".safetensors")]))
    return Loaded(path, int(state["step"]), state, weights, moments)


def load_weights(run_dir: Path, which: str | int = "last") -> dict[str, Tensor]:
    """The weights of a run's checkpoint on the CPU, under the model's own names; see `load`."""
    return dict(load(run_dir, which).weights)


def _find(run_dir: Path, which: str | int) -> int:
    steps = steps_of(run_dir)
    step = int(which) if str(which).isdigit() else named(run_dir, str(which))
    if which == "last" and step not in steps:
        step = steps[-1] if steps else None
    if step is None or step not in steps:
        raise CheckpointError(
            f"the run has no checkpoint {which!r}",
            where=run_dir / FOLDER,
            known=[name_of(s) for s in steps] or "none yet",
            do="choose last, best or one of these steps",
        )
    return step


def _read(folder: Path, files: Iterable[str]) -> Iterable[tuple[str, Tensor]]:
    for file in files:
        try:
            with safe_open(folder / file, framework="pt", device="cpu") as tensors:
                for name in tensors.keys():  # noqa: SIM118 not a mapping
                    yield name, tensors.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"cannot read {file}: {error}", where=folder) from None


def check_fits(loaded: Loaded, model: torch.nn.Module) -> None:
    """Whether a checkpoint belongs to this model.

    Raises:
        CheckpointError: names or shapes differ; names the first ones.
    """
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    theirs = {name: tuple(tensor.shape) for name, tensor in loaded.weights.items()}
    differing = sorted(name for name in own.keys() | theirs.keys() if own.get(name) != theirs.get(name))
    if differing:
        name = differing[0]
        raise CheckpointError(
            f"the checkpoint does not fit the model: {name} is {theirs.get(name, 'missing')} in the checkpoint and "
            f"{own.get(name, 'missing')} in the model" + (f", and {len(differing) - 1} more" * (len(differing) > 1)),
            where=loaded.path,
            do="resume with the config.yaml and the plugin version that the run was started with",
        )
