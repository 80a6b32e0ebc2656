"""Published checkpoints <-> our parameters: key maps as data, safe reading, sharded writing.

A `WeightMap` is a list of rules between name patterns. Going in, every published tensor is used or deliberately
ignored and every parameter of ours is filled or known to be new; anything else is an error that lists the names.
Going out, the same rules give a file that the published code loads. Files are read without ever running code from
them: safetensors, or `torch.load(weights_only=True)`.
"""

import json
import os
import pickle
import re
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from mmcore.errors import CheckpointError, MissingDataError, UnsafeDataError, WeightsError, nearest

if TYPE_CHECKING:
    from torch import Tensor

INDEX_FILE = "model.safetensors.index.json"
_NESTED_UNDER = ("model", "state_dict", "module", "model_state_dict")
_TORCH_SUFFIXES = (".bin", ".pth", ".pt", ".ckpt", ".th")


@dataclass(frozen=True, slots=True)
class Rule:
    """One published pattern and ours; `*` stands for any run of characters and is carried over in order.

    With several patterns on our side, the published tensor is cut into equal parts along dimension 0 (a fused
    query-key-value matrix); with several on the published side, the tensors are stacked along a new dimension 0.
    """

    published: str | tuple[str, ...]
    ours: str | tuple[str, ...]
    to_ours: "Callable[[Tensor], Tensor] | None" = None
    """Applied to each published tensor, for a transposition or a reshape."""
    to_published: "Callable[[Tensor], Tensor] | None" = None
    """Its inverse."""


@dataclass(slots=True)
class LoadReport:
    """What became of every name when a published checkpoint was read."""

    filled: list[str] = field(default_factory=list)
    """Our names that got a value."""
    ignored: list[str] = field(default_factory=list)
    """Published names that are deliberately not used."""
    new: list[str] = field(default_factory=list)
    """Our names that keep their fresh values."""
    misfits: list[str] = field(default_factory=list)
    """Published names left out because their shape differs; only when misfits are allowed."""

    def __str__(self) -> str:
        parts = [f"{len(self.filled)} tensors filled", f"{len(self.new)} new", f"{len(self.ignored)} ignored"]
        return ", ".join(parts + ([f"{len(self.misfits)} of another shape"] if self.misfits else []))


@dataclass(frozen=True)
class WeightMap:
    """The names of one published checkpoint format and ours."""

    rules: tuple[Rule, ...]
    prefix: str = ""
    """Written before every published name but those of `constants`; on reading it may be missing."""
    aliases: tuple[tuple[str, str], ...] = ()
    """(alias, source) patterns among published names, without prefix: the alias holds the same tensor."""
    ignored: tuple[str, ...] = ()
    """Patterns of published names that are not used, without prefix."""
    new: tuple[str, ...] = ()
    """Patterns of our names that the published file may lack."""
    constants: "Mapping[str, Tensor]" = field(default_factory=dict)
    """Published names with fixed values: ignored on reading, written as they are."""
    misfits: bool = False
    """Whether tensors of another shape are left out instead of refused (another vocabulary, another task)."""
    label: str = "checkpoint"
    """The format's name, for messages."""

    def to_ours(
        self, tensors: "Mapping[str, Tensor]", model_state: "Mapping[str, Tensor]"
    ) -> "tuple[dict[str, Tensor], LoadReport]":
        """Our state from published tensors.

        Args:
            tensors: published names and values.
            model_state: our names with tensors of the wanted shapes (any device, meta included).

        Returns:
            The tensors to load, and what became of every name.

        Raises:
            WeightsError: a name is unknown, missing or misshapen, or two aliases hold different values.
        """
        report = LoadReport()
        named = self._without_aliases({self._bare(name): tensor for name, tensor in tensors.items()}, report)
        state: dict[str, Tensor] = {}
        unknown = []
        parts: dict[str, dict[int, Tensor]] = {}
        for name, tensor in named.items():
            if (found := self._find(name)) is None:
                (report.ignored if self._is_ignored(name) else unknown).append(name)
                continue
            rule, at, stars = found
            for ours, value in _into(rule, at, stars, tensor, parts):
                if ours in model_state:
                    state[ours] = value
                elif self._is_ignored(name):
                    report.ignored.append(name)
                else:
                    unknown.append(name)
        self._refuse_unknown(unknown, model_state)
        _check_shapes(state, model_state, report, allowed=self.misfits)
        missing = [name for name in model_state if name not in state]
        report.filled = list(state)
        report.new = [name for name in missing if _any_match(self.new, name)]
        self._refuse_missing([name for name in missing if not _any_match(self.new, name)], named)
        return state, report

    def to_published(self, state: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
        """Published names and values of our state, aliases and constants included.

        Raises:
            WeightsError: one of our names has no published name.
        """
        bare: dict[str, Tensor] = {}
        unmapped = [name for name in state if not self._emit(name, state, bare)]
        if unmapped:
            raise WeightsError(f"no published name for {_some(unmapped)}", where=self.label)
        for alias, source in self.aliases:
            pattern = _pattern(source)
            for name in list(bare):
                if match := pattern.fullmatch(name):
                    bare[_fill(alias, match.groups())] = bare[name]
        published = {self.prefix + name: tensor for name, tensor in bare.items()}
        return published | dict(self.constants)

    def _emit(self, name: str, state: "Mapping[str, Tensor]", into: "dict[str, Tensor]") -> bool:
        """Put one of our tensors, or the tensor it is part of, under its published name."""
        for rule in self.rules:
            sides = _tuple(rule.ours)
            for side in sides:
                match = _pattern(side).fullmatch(name)
                if match is None:
                    continue
                group = [state.get(_fill(other, match.groups())) for other in sides]
                if any(part is None for part in group):
                    continue
                for published, tensor in _out(rule, match.groups(), [part for part in group if part is not None]):
                    into[published] = tensor
                return True
        return False

    def _bare(self, name: str) -> str:
        return name if name in self.constants else name.removeprefix(self.prefix)

    @cached_property
    def _compiled(self) -> list[tuple[Rule, int, re.Pattern[str]]]:
        return [(rule, i, _pattern(side)) for rule in self.rules for i, side in enumerate(_tuple(rule.published))]

    def _find(self, name: str) -> tuple[Rule, int, tuple[str, ...]] | None:
        for rule, at, pattern in self._compiled:
            if match := pattern.fullmatch(name):
                return rule, at, match.groups()
        return None

    def _is_ignored(self, name: str) -> bool:
        return name in self.constants or _any_match(self.ignored, name)

    def _without_aliases(self, tensors: "dict[str, Tensor]", report: LoadReport) -> "dict[str, Tensor]":
        """Drop aliases that equal their source, and let one stand for a source that is not there."""
        result = dict(tensors)
        for alias, source in self.aliases:
            pattern = _pattern(alias)
            for name in tensors:
                if (match := pattern.fullmatch(name)) is None:
                    continue
                original = _fill(source, match.groups())
                first = result.setdefault(original, tensors[name])
                if first is not tensors[name] and not _same(first, tensors[name]):
                    raise WeightsError(
                        f"{name} and {original} should hold the same values but differ",
                        where=self.label,
                        do="the file is damaged or comes from another model",
                    )
                if name != original:
                    result.pop(name, None)
        return result

    def _refuse_unknown(self, names: list[str], model_state: "Mapping[str, Tensor]") -> None:
        if names:
            mine = {name: tensor for name, tensor in model_state.items() if not _any_match(self.new, name)}
            close = nearest(names[0], [self._bare(name) for name in self.to_published(mine)])
            raise WeightsError(
                f"{_count(names)} of the checkpoint fit nowhere in this model: {_some(names)}",
                where=self.label,
                known=f"nearest to the first: {close}" if close else None,
                do="check that the checkpoint belongs to this family, variant and stage",
            )

    def _refuse_missing(self, names: list[str], published: Iterable[str]) -> None:
        if names:
            close = nearest(names[0], published)
            raise WeightsError(
                f"the checkpoint lacks {_count(names)} of this model: {_some(names)}",
                where=self.label,
                known=f"nearest to the first: {close}" if close else None,
                do="check that the checkpoint belongs to this family, variant and stage",
            )


def _into(
    rule: Rule, at: int, stars: tuple[str, ...], tensor: "Tensor", parts: "dict[str, dict[int, Tensor]]"
) -> "Iterator[tuple[str, Tensor]]":
    """Our tensors that are complete now that one more published tensor was read."""
    import torch

    value = rule.to_ours(tensor) if rule.to_ours else tensor
    if isinstance(rule.ours, tuple):
        pieces = value.chunk(len(rule.ours))
        yield from ((_fill(side, stars), piece) for side, piece in zip(rule.ours, pieces, strict=True))
    elif isinstance(rule.published, tuple):
        ours = _fill(rule.ours, stars)
        seen = parts.setdefault(ours, {})
        seen[at] = value
        if len(seen) == len(rule.published):
            yield ours, torch.stack([seen[i] for i in range(len(seen))])
    else:
        yield _fill(rule.ours, stars), value


def _out(rule: Rule, stars: tuple[str, ...], group: "list[Tensor]") -> "Iterator[tuple[str, Tensor]]":
    import torch

    inverse = rule.to_published or (lambda tensor: tensor)
    value = torch.cat(group) if len(group) > 1 else group[0]
    if isinstance(rule.published, tuple):
        yield from ((_fill(p, stars), inverse(piece)) for p, piece in zip(rule.published, value.unbind(), strict=True))
    else:
        yield _fill(rule.published, stars), inverse(value)


def _check_shapes(
    state: "dict[str, Tensor]", wanted: "Mapping[str, Tensor]", report: LoadReport, *, allowed: bool
) -> None:
    wrong = [name for name, tensor in state.items() if tensor.shape != wanted[name].shape]
    if wrong and not allowed:
        name = wrong[0]
        raise WeightsError(
            f"{_count(wrong)} of the checkpoint have another shape: {name} is {tuple(state[name].shape)} there "
            f"and {tuple(wanted[name].shape)} here",
            known=_some(wrong),
            do="check that the checkpoint belongs to this family, variant and stage",
        )
    for name in wrong:
        report.misfits.append(name)
        del state[name]


_PATTERNS: dict[str, re.Pattern[str]] = {}


def _pattern(text: str) -> re.Pattern[str]:
    if text not in _PATTERNS:
        _PATTERNS[text] = re.compile("(.+)".join(re.escape(piece) for piece in text.split("*")))
    return _PATTERNS[text]


def _fill(pattern: str, stars: Iterable[str]) -> str:
    values = iter(stars)
    return "".join(next(values) if piece == "*" else piece for piece in re.split(r"(\*)", pattern))


def _any_match(patterns: Iterable[str], name: str) -> bool:
    return any(_pattern(pattern).fullmatch(name) for pattern in patterns)


def _tuple(side: str | tuple[str, ...]) -> tuple[str, ...]:
    return side if isinstance(side, tuple) else (side,)


def _same(a: "Tensor", b: "Tensor") -> bool:
    import torch

    return a.shape == b.shape and torch.equal(a, b)


def _count(names: list[str]) -> str:
    return "1 tensor" if len(names) == 1 else f"{len(names)} tensors"


def _some(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def read_tensors(path: str | Path) -> "dict[str, Tensor]":
    """Every tensor of a checkpoint, on the CPU and memory-mapped where the format allows.

    Takes safetensors (one file, or sharded with an index), `.bin`, `.pth` and `.pt` files written by `torch.save`
    (flat, or nested under "model", "state_dict" or "module"), and folders that hold one of these.

    Raises:
        MissingDataError: there is nothing at `path`.
        WeightsError: it is not a checkpoint, is damaged, or would have to run code to be read.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.exists():
        raise MissingDataError("no checkpoint here", where=path, do="give a file or a folder that holds weights")
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in _TORCH_SUFFIXES:
        return _read_torch(path)
    raise WeightsError(
        f"{path.suffix or 'this file'} is not a checkpoint format",
        where=path,
        known=[".safetensors", *_TORCH_SUFFIXES, "a folder that holds one of these"],
    )


def _read_folder(folder: Path) -> "dict[str, Tensor]":
    for name in (INDEX_FILE, "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin"):
        if (folder / name).exists():
            return read_tensors(folder / name)
    files = sorted(f for suffix in (".safetensors", *_TORCH_SUFFIXES) for f in folder.glob("*" + suffix))
    if len(files) == 1:
        return read_tensors(files[0])
    if not files:
        raise MissingDataError(
            "no weights in this folder", where=folder, known=[INDEX_FILE, "model.safetensors", "pytorch_model.bin"]
        )
    raise WeightsError(
        "several checkpoints in this folder", where=folder, known=[f.name for f in files], do="name one of them"
    )


def _read_shards(index: Path) -> "dict[str, Tensor]":
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise WeightsError("the index of this checkpoint cannot be read", where=index) from error
    tensors: dict[str, Tensor] = {}
    for name in names:
        if PurePath(name).name != name:
            raise UnsafeDataError(f"the index names a file outside its folder: {name!r}", where=index)
        tensors.update(read_tensors(index.parent / name))
    return tensors


def _read_safetensors(path: Path) -> "dict[str, Tensor]":
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"not a readable safetensors file: {error}", where=path) from error


def _read_torch(path: Path) -> "dict[str, Tensor]":
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch remarks on the pickle protocol of files it is about to refuse
            # Memory mapping needs the zip layout that torch.save writes since 1.6; published files may be older.
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise WeightsError(
            "refused: this file is damaged or holds more than plain tensors, and nothing in it was run",
            where=path,
            known=str(error).strip().splitlines()[0][:200] if str(error).strip() else None,
            do="convert it to safetensors on a machine where you trust it",
        ) from error
    return _tensors_of(content, path)


def _tensors_of(content: Any, path: Path) -> "dict[str, Tensor]":
    """The flat dictionary of tensors inside what torch.load gave."""
    import torch

    while isinstance(content, Mapping):
        inner = next((content[key] for key in _NESTED_UNDER if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"holds a {type(content).__name__} instead of named tensors", where=path)
    other = [str(name) for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if other:
        raise WeightsError(
            f"holds entries that are not tensors: {_some(other)}",
            where=path,
            known=f"named tensors, flat or under {', '.join(_NESTED_UNDER)}",
        )
    wrapped = all(str(name).startswith("module.") for name in content)
    return {str(name).removeprefix("module.") if wrapped else str(name): value for name, value in content.items()}


def write_safetensors(
    state: "Mapping[str, Tensor]",
    folder: str | Path,
    max_shard_bytes: int = 5_000_000_000,
    metadata: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write tensors as `model.safetensors`, or as shards with an index, under their final names only when complete.

    Args:
        state: names and tensors on any device; tensors that share memory are written apart.
        folder: created if needed; an older checkpoint in it is replaced.
        max_shard_bytes: largest size of one file; a single larger tensor gets a file of its own.
        metadata: strings for the header of every file.

    Returns:
        The files, the index last.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; nothing of the old content was touched.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as scratch:
            names = _write_shards(state, Path(scratch), max_shard_bytes, dict(metadata or {}) | {"format": "pt"})
            for old in folder.glob("model*.safetensors*"):
                if old.name not in names:
                    old.unlink()
            for name in names:
                os.replace(Path(scratch) / name, folder / name)
    except OSError as error:
        raise CheckpointError(
            f"cannot write weights: {error.strerror or error}",
            where=folder,
            do="free some space or choose another folder",
        ) from error
    return [folder / name for name in names]


def _write_shards(state: "Mapping[str, Tensor]", folder: Path, limit: int, metadata: dict[str, str]) -> list[str]:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    shards = _shards(state, limit)
    names = [
        "model.safetensors" if len(shards) == 1 else f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        for i in range(len(shards))
    ]
    free = shutil.disk_usage(folder).free
    needed = sum(map(_bytes, state.values()))
    if needed > free:
        raise OSError(28, f"No space left on device ({needed:,} bytes needed, {free:,} free)")
    for name, shard in zip(names, shards, strict=True):
        tensors = _separate({key: state[key] for key in shard})
        try:
            save_file(tensors, folder / name, metadata)
        except SafetensorError as error:
            raise OSError(5, str(error)) from error
        _sync(folder / name)
    if len(shards) == 1:
        return names
    weight_map = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
    index = {"metadata": {"total_size": needed}, "weight_map": weight_map}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n")
    _sync(folder / INDEX_FILE)
    return [*names, INDEX_FILE]


def _shards(state: "Mapping[str, Tensor]", limit: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    size = 0
    for name, tensor in state.items():
        if shards[-1] and size + _bytes(tensor) > limit:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += _bytes(tensor)
    return shards


def _bytes(tensor: "Tensor") -> int:
    return tensor.numel() * tensor.element_size()


def _separate(tensors: "dict[str, Tensor]") -> "dict[str, Tensor]":
    """CPU tensors that own their memory; safetensors refuses aliases."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        storage = plain.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != _bytes(plain):
            plain = plain.clone()
        seen.add(plain.untyped_storage().data_ptr())
        result[name] = plain
    return result


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
