"""Published checkpoints <-> our parameters: key maps as data.

A `WeightMap` is a list of rules between name patterns. Going in, every published tensor is used or deliberately
ignored and every parameter of ours is filled or known to be new; anything else is an error that lists the names.
Going out, the same rules give a file that the published code loads.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from mmcore.errors import WeightsError, nearest, some

if TYPE_CHECKING:
    from torch import Tensor


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
    needed: list[str] = field(default_factory=list)
    """Those of `new` that another start must fill: the file is of the whole model and lacks them."""

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
    tied: tuple[tuple[str, str], ...] = ()
    """(second, first) among our names: one tensor under two names. Published files may hold the second or leave it out;
    ours do not write it."""
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
        self._tie(state, model_state)
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
        seconds = {second for second, first in self.tied if first in state}
        unmapped = [name for name in state if name not in seconds and not self._emit(name, state, bare)]
        if unmapped:
            raise WeightsError(f"no published name for {some(unmapped)}", where=self.label)
        for alias, source in self.aliases:
            pattern = _pattern(source)
            for name in list(bare):
                if match := pattern.fullmatch(name):
                    bare[_fill(alias, match.groups())] = bare[name]
        published = {self.prefix + name: tensor for name, tensor in bare.items()}
        return published | dict(self.constants)

    def _tie(self, state: "dict[str, Tensor]", model_state: "Mapping[str, Tensor]") -> None:
        """Give a tied tensor its second name; a file with two different ones is of another model."""
        for second, first in self.tied:
            if first not in state or second not in model_state:
                continue
            if not _same(state.setdefault(second, state[first]), state[first]):
                raise WeightsError(
                    f"{second} and {first} are one tensor in this model, and the checkpoint has two that differ",
                    where=self.label,
                    do="check that the checkpoint belongs to this family, variant and stage",
                )

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
                f"{_count(names)} of the checkpoint fit nowhere in this model: {some(names)}",
                where=self.label,
                known=f"nearest to the first: {close}" if close else None,
                do="check that the checkpoint belongs to this family, variant and stage",
            )

    def _refuse_missing(self, names: list[str], published: Iterable[str]) -> None:
        if names:
            close = nearest(names[0], published)
            raise WeightsError(
                f"the checkpoint lacks {_count(names)} of this model: {some(names)}",
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
            known=some(wrong),
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

    return a is b or (a.shape == b.shape and (a.is_meta or torch.equal(a, b)))


def _count(names: list[str]) -> str:
    return "1 tensor" if len(names) == 1 else f"{len(names)} tensors"
