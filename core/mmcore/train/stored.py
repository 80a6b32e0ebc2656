"""The checkpoints of a run folder as files: their names, whether they are whole, which are kept. Needs no torch.

A checkpoint is a folder that appeared by a rename, with a manifest of the size and SHA-256 of every file in it.
"""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmcore.base.files import hash_file, replace_text
from mmcore.base.jsonfile import parse_json, read_json, read_regular
from mmcore.errors import CheckpointError

FOLDER = "checkpoints"
MANIFEST = "manifest.json"
STATE = "state.json"
POINTERS = ("last", "best")
"""Files of one line beside the checkpoints."""
_STATE = {
    "version": int, "step": int, "position": dict, "updates": int, "skipped": int,
    "loss_scale": (list, type(None)), "seed": int, "steps": int,
}  # fmt: skip
"""What a run reads of `state.json`."""
_POSITION = {
    "step": int, "samples": int, "best": (int, float, type(None)), "best_step": (int, type(None)), "metrics": dict,
}  # fmt: skip
_LATER = {"stale": int}
"""What older checkpoints do not have."""
_NAME = re.compile(r"step-([0-9]{8,18})")


def name_of(step: int) -> str:
    """Folder name of a step's checkpoint."""
    return f"step-{step:08d}"


def path_of(run_dir: Path, step: int) -> Path:
    """Folder of a step's checkpoint."""
    return run_dir / FOLDER / name_of(step)


def is_checkpoint(path: Path) -> bool:
    """Whether a path is named like a checkpoint folder."""
    return _NAME.fullmatch(path.name) is not None


def split(path: Path) -> tuple[Path, str | None]:
    """A path as a run folder and what it names there: a checkpoint, `last`, `best`, or, of any other path, nothing.

    >>> split(Path("runs/a/checkpoints/best"))[1]
    'best'
    """
    if path.parent.name != FOLDER:
        return path, None
    found = _NAME.fullmatch(path.name)
    which = str(int(found.group(1))) if found else path.name if path.name in POINTERS else None
    return (path, None) if which is None else (path.parent.parent, which)


def steps_of(run_dir: Path) -> list[int]:
    """Steps that have a checkpoint folder, ascending; whether they are whole is another question."""
    folder = run_dir / FOLDER
    found = (_NAME.fullmatch(path.name) for path in folder.iterdir()) if folder.is_dir() else ()
    return sorted(int(match.group(1)) for match in found if match)


def named(run_dir: Path, pointer: str) -> int | None:
    """The step that `last` or `best` names, or None."""
    try:
        text = read_regular(run_dir / FOLDER / pointer, max_bytes=100).decode("ascii").strip()
    except (OSError, ValueError):
        return None
    match = _NAME.fullmatch(text)
    return int(match.group(1)) if match else None


def problem(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None: every file of the manifest is there, of its size and hash."""
    try:
        manifest = read_json(path / MANIFEST, {"step": int, "files": dict})
        files = {str(name): (int(file["bytes"]), str(file["sha256"])) for name, file in manifest["files"].items()}
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        return f"{MANIFEST} cannot be read: {error}"
    if is_checkpoint(path) and path.name != name_of(manifest["step"]):
        return f"{MANIFEST} is that of {name_of(manifest['step'])}"
    if missing := [kind for kind in ("model", "optimizer") if not any(name.startswith(kind) for name in files)]:
        return f"{MANIFEST} names no {' and no '.join(missing)}"
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
    try:
        step = state_of(path)["step"]
    except (OSError, ValueError) as error:
        return f"{STATE} cannot be used: {error}"
    return None if step == manifest["step"] else f"{STATE} is that of step {step}"


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


def find(run_dir: Path, which: str | int) -> int:
    """The step that "last", "best" or a number means.

    Raises:
        CheckpointError: there is no such checkpoint; names those there are.
    """
    steps = steps_of(run_dir)
    step = int(which) if re.fullmatch("[0-9]{1,18}", str(which)) else named(run_dir, str(which))
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


def state_of(path: Path) -> dict[str, Any]:
    """The `state.json` of a checkpoint, its form verified.

    Raises:
        OSError: it cannot be read.
        ValueError: an entry is missing, unknown or of another type.
    """
    state = read_json(path / STATE, _STATE)
    position = parse_json(json.dumps(state["position"]), _POSITION)
    if unknown := position.keys() - _POSITION.keys() - _LATER.keys():
        raise ValueError(f"position has {', '.join(sorted(unknown))}, which nobody knows")
    return state


def mark_best(run_dir: Path, step: int | None) -> None:
    """Let `best` name the checkpoint of `step`, where there is one; without one there is no `best`."""
    path = run_dir / FOLDER / "best"
    if step is None or not path_of(run_dir, step).is_dir():
        path.unlink(missing_ok=True)
    elif named(run_dir, "best") != step:
        replace_text(path, name_of(step) + "\n")


def retain(run_dir: Path, *, keep_last: int, keep_every: float | None) -> list[int]:
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
