"""Run golden cases: numbers of the published code against ours, one line per quantity, nothing left unchecked.

A family's `parity` package names a check per kind of case and calls `main`. A case is a folder with `case.json` and
usually `tensors.safetensors`; its kind is the longest registered prefix of its name, so other cases of the same kind
need no code.
"""

import importlib
import json
import pkgutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from mmcore.errors import DataError, MissingDataError, MmcoreError


@dataclass
class Case:
    """One golden case on disk."""

    folder: Path

    @cached_property
    def data(self) -> dict[str, Any]:
        """`case.json`."""
        return json.loads((self.folder / "case.json").read_text())

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """`tensors.safetensors`, empty where the case has none."""
        path = self.folder / "tensors.safetensors"
        return load_file(path) if path.exists() else {}

    @property
    def name(self) -> str:
        return self.folder.name

    def companion(self, relative: str) -> Any:
        """A JSON file named in the case, such as the key list beside the cases."""
        return json.loads((self.folder / relative).read_text())

    def outputs(self) -> list[str]:
        """Names of the stored tensors that are results: everything but inputs and random draws."""
        return [name for name in self.tensors if not _is_input(name)]


def _is_input(name: str) -> bool:
    parts = name.split(".")
    return parts[0] in ("in", "draw", "pick") or parts[0].endswith(("input_ids", "attention_mask")) or "draw" in parts


@dataclass
class Line:
    """One compared quantity."""

    name: str
    error: float
    tolerance: float
    ok: bool
    note: str = ""


@dataclass
class Report:
    """Collects comparisons of one case and prints them as they come."""

    case: Case
    lines: list[Line] = field(default_factory=list)
    checked: set[str] = field(default_factory=set)

    def close(
        self,
        name: str,
        actual: Any,
        expected: Any,
        *,
        absolute: float = 0.0,
        relative: float = 0.0,
        norm_relative: float | None = None,
    ) -> bool:
        """Compare numbers; the error shown is the largest |a-b| / (absolute + relative·|b|), so 1 is the limit.

        With `norm_relative` the whole tensor is judged: |a-b|₂ ≤ norm_relative·|b|₂ + absolute.
        """
        a, b = _numbers(actual), _numbers(expected)
        self.checked.add(name)
        if a.shape != b.shape:
            return self.add(name, float("inf"), 1.0, False, f"shape {tuple(a.shape)} instead of {tuple(b.shape)}")
        if a.numel() == 0:
            return self.add(name, 0.0, 1.0, True, "empty")
        if norm_relative is not None:
            error = float((a - b).norm())
            limit = norm_relative * float(b.norm()) + absolute
            return self.add(name, error, limit, error <= limit and bool(torch.isfinite(a).all()))
        same = (a == b) | (a.isnan() & b.isnan())
        error = torch.where(same, torch.zeros_like(a), (a - b).abs())
        limit = absolute + relative * b.abs()
        ok = bool((error <= limit).all())
        worst = int((error - limit).argmax())
        return self.add(name, float(error.flatten()[worst]), float(limit.flatten()[worst]), ok)

    def equal(self, name: str, actual: Any, expected: Any) -> bool:
        """Compare exactly: tensors, numbers, strings, nested lists and dicts."""
        self.checked.add(name)
        a, b = _plain(actual), _plain(expected)
        ok = a == b
        return self.add(name, 0.0 if ok else float("inf"), 0.0, ok, "" if ok else _difference(a, b))

    def covers(self, *names: str) -> None:
        """Say that these stored quantities were compared under another name."""
        self.checked.update(names)

    def finish(self) -> bool:
        """Fail for every stored result that was not compared, and say whether all is well."""
        for name in self.case.outputs():
            if name not in self.checked:
                self.add(name, float("nan"), 0.0, False, "stored but not checked")
        if not self.lines:
            self.add("(nothing)", float("nan"), 0.0, False, "the case checked no quantity")
        return all(line.ok for line in self.lines)

    def add(self, name: str, error: float, tolerance: float, ok: bool, note: str = "") -> bool:
        line = Line(name, error, tolerance, ok, note)
        self.lines.append(line)
        if not ok or _verbose:
            print(f"  {'ok  ' if ok else 'FAIL'} {name:<64} {error:10.3g} of {tolerance:8.2g} {note}")
        return ok


_verbose = True


class NotRun(Exception):  # noqa: N818 - an outcome, not an error
    """Raised by a check whose case needs a part of the family that is not there; the case is listed, not failed."""


def _numbers(value: Any) -> Tensor:
    """A tensor, array, number or nested list as float64 on the CPU."""
    if isinstance(value, (list, tuple)) and any(isinstance(part, Tensor) for part in value):
        value = torch.stack([torch.as_tensor(part) for part in value])
    if isinstance(value, Tensor):
        return value.detach().cpu().double()
    return torch.as_tensor(np.asarray(value)).double()


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu().tolist()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def _difference(a: Any, b: Any, path: str = "") -> str:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in [*b, *a]:
            if a.get(key, _MISSING) != b.get(key, _MISSING):
                return _difference(a.get(key, "(missing)"), b.get(key, "(missing)"), f"{path}.{key}")
    if isinstance(a, list) and isinstance(b, list):
        if len(a) != len(b):
            return f"{path}: {len(a)} entries instead of {len(b)}"
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            if x != y:
                return _difference(x, y, f"{path}[{i}]")
    return f"{path}: {str(a)[:80]!r} instead of {str(b)[:80]!r}"


_MISSING = object()

Check = Callable[[Case, Report], None]


def checks_of(package: ModuleType) -> dict[str, Check]:
    """Checks by the beginning of a case's name: every file of a family's parity package that names `KINDS` brings some.

    Raises:
        ValueError: two files check the same kind.
    """
    result: dict[str, Check] = {}
    for module in pkgutil.iter_modules(package.__path__):
        if module.name == "__main__":
            continue
        found: dict[str, Check] = getattr(importlib.import_module(f"{package.__name__}.{module.name}"), "KINDS", {})
        if twice := result.keys() & found.keys():
            raise ValueError(f"{module.name} checks {', '.join(sorted(twice))}, as another file does")
        result |= found
    return result


def kind_of(name: str, kinds: Iterable[str]) -> str | None:
    """The longest registered prefix of a case name, or None."""
    return max((kind for kind in kinds if name.startswith(kind)), key=len, default=None)


def main(family: str, kinds: Mapping[str, Check], arguments: Sequence[str]) -> int:
    """Run the cases named on the command line (folders, or names below $MMCORE_GOLDENS) and return the exit code.

    `-q` prints failures and one line per case only. A folder that holds cases runs all of them that are of a known
    kind and lists the others.
    """
    global _verbose
    _verbose = "-q" not in arguments
    names = [argument for argument in arguments if argument != "-q"]
    if not names:
        print(f"usage: python -m mmcore_{family}.parity [-q] CASE...   (case folders, or a folder of cases)")
        return 2
    try:
        cases, left = _find_cases(names, kinds)
    except MmcoreError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    results = {case.name: _run(case, kinds) for case in cases}
    failed = [name for name, ok in results.items() if ok is False]
    agreed = sum(ok is True for ok in results.values())
    not_run = [name for name, ok in results.items() if ok is None]
    print(f"{agreed} of {agreed + len(failed)} cases agree" + (f"; FAIL: {', '.join(failed)}" if failed else ""))
    if not_run:
        print(f"not run, for the reasons given: {', '.join(not_run)}")
    if left:
        print(f"not run, no check for this kind: {', '.join(left)}")
    return 1 if failed or not agreed else 0


def _find_cases(names: Sequence[str], kinds: Mapping[str, Check]) -> tuple[list[Case], list[str]]:
    cases: list[Case] = []
    left: list[str] = []
    for name in names:
        folder = Path(name)
        if (folder / "case.json").exists():
            if kind_of(folder.resolve().name, kinds) is None:
                raise DataError(f"no check for cases like {folder.name}", where=folder, known=sorted(kinds))
            cases.append(Case(folder.resolve()))
            continue
        inside = sorted(path.parent for path in folder.glob("*/case.json"))
        if not inside:
            raise MissingDataError(f"no golden case at {name}", where=name, do="give a folder with a case.json")
        for path in inside:
            known = kind_of(path.name, kinds)
            (cases.append(Case(path.resolve())) if known else left.append(path.name))
    return cases, left


def _run(case: Case, kinds: Mapping[str, Check]) -> bool | None:
    """Whether the case agrees; None when it could not be run."""
    kind = kind_of(case.name, kinds)
    assert kind is not None
    report = Report(case)
    print(f"{case.name}:", flush=True)
    try:
        kinds[kind](case, report)
    except NotRun as reason:
        print(f"  not run: {reason}")
        return None
    except Exception as error:
        report.add("(crashed)", float("nan"), 0.0, False, f"{type(error).__name__}: {error}")
        if _verbose:
            import traceback

            traceback.print_exc()
    ok = report.finish()
    print(f"  {'ok' if ok else 'FAIL'}: {sum(line.ok for line in report.lines)} of {len(report.lines)} quantities")
    return ok


def deterministic_array(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The float32 weight that golden cases give the parameter `name`: a normal Philox stream seeded by its SHA-256.

    Matrices and kernels are scaled by 1/√fan_in, vectors called weight or gamma are 1 + 0.1·noise, running variances
    1 + 0.1·|noise|, other vectors 0.02·noise.
    """
    noise = _stream(name).standard_normal(shape, dtype=np.float32)
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "running_var":
        return 1 + 0.1 * np.abs(noise)
    if len(shape) >= 2:
        return noise / np.float32(np.sqrt(np.prod(shape[1:])))
    if leaf in ("weight", "gamma"):
        return 1 + np.float32(0.1) * noise
    return np.float32(0.02) * noise


def deterministic_image(seed: int, height: int, width: int) -> np.ndarray:
    """The uint8 RGB picture (height, width, 3) of golden cases with this seed: six soft blobs and a little noise."""
    rng = _stream(f"image-{seed}-{height}x{width}")
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float64)
    canvas = np.zeros((height, width, 3))
    for _ in range(6):
        row, column = rng.uniform(0, height), rng.uniform(0, width)
        radius = rng.uniform(0.1, 0.4) * max(height, width)
        colour = rng.uniform(0, 255, 3)
        canvas += colour * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * radius**2))[..., None]
    canvas = canvas / canvas.max() * 245 + rng.uniform(0, 10, canvas.shape)
    return np.clip(np.round(canvas), 0, 255).astype(np.uint8)


def _stream(name: str) -> np.random.Generator:
    import hashlib

    return np.random.Generator(np.random.Philox(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")))
