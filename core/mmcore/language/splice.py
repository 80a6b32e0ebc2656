"""Features among words: `lay_out` plans on the CPU where everything goes, `embed` fills the plan on the device.

    ids        w w <image> w w          placeholders as the encoder wrote them
    expanded   w w i i i g g w w        rows of every kind that a placeholder stands for (`expansion`)
    rows       w w i i i g g w w . .    cut to the maximum length, padded on one side, or packed several to a row

The plan is made once, in a data worker, with array operations over the whole batch. On the device remain one embedding
lookup and one copy by index, whose sizes the plan knows: nothing is counted there, so nothing waits for it.
"""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmcore.errors import DataError, RecipeError, ShapeError
from mmcore.language.sequence import IGNORE, Encoded, Location, Sequences

Expansion = Mapping[int, Sequence[tuple[str, int]]]
"""Placeholder id -> the kinds of features that take its place, in order, and how many rows of each."""

_WORD = -1


class _Flat(NamedTuple):
    """All samples of a batch end to end, one entry for every position."""

    ids: np.ndarray
    """Vocabulary id, 0 where a feature stands."""
    labels: np.ndarray
    kinds: np.ndarray
    """Number of the kind of feature, `_WORD` for a word."""
    samples: np.ndarray
    """Sample that the position belongs to."""
    lengths: np.ndarray
    """Positions of each sample."""


def lay_out(
    encoded: Sequence[Encoded],
    expansion: Expansion,
    *,
    max_length: int | None = None,
    padding_side: Literal["left", "right"] = "right",
    pack_to: int | None = None,
    watch: Mapping[str, int] | None = None,
) -> Sequences:
    """Expand the placeholders of a batch and give every position its row and column.

    Args:
        encoded: tokenised samples, each with at least one token.
        expansion: what each placeholder stands for; {IMAGE: (("image", 576), ("gen", 8))}. A vocabulary id may be a
            placeholder as well; where its label says so, its first row has to be predicted as that word.
        max_length: positions after expansion beyond which a sample is cut on the right, as LLaVA does; tokens.
        padding_side: where rows are filled up when each holds one sample.
        pack_to: most positions of rows that hold several samples; None gives every sample a row of its own.
        watch: name -> vocabulary id whose positions the model wants to know.

    Raises:
        DataError: a sample has no tokens, or a negative id that `expansion` does not know.
        RecipeError: a sample is longer than `pack_to`.
    """
    kinds = list(dict.fromkeys(kind for pieces in expansion.values() for kind, _ in pieces))
    whole = _expand(encoded, expansion, kinds)
    inside = _offsets(whole.lengths) < (max_length or np.iinfo(np.int64).max)
    flat = _select(whole, inside)
    locations, shape = _place(flat.lengths, padding_side, pack_to)
    right = padding_side == "right"
    rows, starts, _ = np.array(locations, np.int64).reshape(-1, 3).T
    offsets = _offsets(flat.lengths)
    where = np.repeat(rows * shape[1] + starts, flat.lengths) + offsets
    learned = np.flatnonzero((flat.labels[1:] != IGNORE) & (flat.samples[1:] == flat.samples[:-1]))
    slots = {kind: where[flat.kinds == number] for number, kind in enumerate(kinds)}
    kept = {kind: np.flatnonzero(inside[whole.kinds == number]) for number, kind in enumerate(kinds)}
    found = {name: where[(flat.ids == token) & (flat.kinds == _WORD)] for name, token in (watch or {}).items()}
    numbers = _numbers_in_rows(rows, starts)
    return Sequences(
        ids=_scatter(flat.ids, where, shape, 0),
        valid=_scatter(np.ones(len(where), bool), where, shape, False),
        positions=_scatter(offsets, where, shape, np.arange(shape[1]) if pack_to is None and right else 0),
        segments=None if pack_to is None else _scatter(numbers[flat.samples], where, shape, -1),
        slots=_tensors(slots),
        supervised=torch.from_numpy(where[learned]),
        targets=torch.from_numpy(flat.labels[learned + 1]),
        locations=tuple(locations),
        found=_tensors(found),
        kept=_tensors({k: v for k, v in kept.items() if len(v) < np.count_nonzero(whole.kinds == kinds.index(k))}),
        cut=tuple((whole.lengths - flat.lengths).tolist()),
    )


def embed(
    sequences: Sequences,
    embed_tokens: nn.Module,
    features: Mapping[str, Tensor],
    *,
    scale: float | None = None,
) -> Float[Tensor, "rows length width"]:
    """What the language model reads: word embeddings, features in their slots, zeros at padding.

    Args:
        sequences: the plan, on the device of the features.
        embed_tokens: ids to embeddings.
        features: kind -> (..., width), every feature of the batch in sample order, also those that were cut. A kind
            without slots may have no rows: it then stays in the graph and gets a gradient of zero.
        scale: factor on the features; Gemma's embedding multiplies words by √width, which its published families
            applied to the features as well.

    Raises:
        ShapeError: a kind has another number of features than slots.
    """
    words = embed_tokens(sequences.ids).masked_fill(~sequences.valid[..., None], 0.0)
    names = _check_counts(sequences, features)
    if not names:
        return words
    rows = [_kept_rows(sequences, name, features[name]).to(words.dtype) for name in names]
    values = torch.cat(rows)
    if scale is not None:
        # The factor is rounded to the type of the activations first, as the published models do.
        values = values * torch.tensor(scale, dtype=words.dtype)
    where = torch.cat([sequences.slots[name] for name in names])
    return words.flatten(0, 1).index_copy(0, where, values).view_as(words)


def _check_counts(sequences: Sequences, features: Mapping[str, Tensor]) -> list[str]:
    """Kinds to copy, in the order given; sizes are known without asking the device."""
    for kind in dict.fromkeys([*sequences.slots, *features]):
        slots = len(sequences.slots.get(kind, ()))
        given = features[kind].shape[:-1].numel() if kind in features else 0
        expected = slots if kind not in sequences.kept else None
        if (expected is not None and given != expected) or (expected is None and given <= slots):
            raise ShapeError(
                f"{given} features of kind {kind!r} for {slots} slots",
                known={name: len(positions) for name, positions in sequences.slots.items()},
                do="give one feature for every row its placeholder stands for, samples in order",
            )
    return [kind for kind in features if kind in sequences.slots]


def _kept_rows(sequences: Sequences, kind: str, feature: Tensor) -> Tensor:
    flat = feature.reshape(-1, feature.shape[-1])
    return flat.index_select(0, sequences.kept[kind]) if kind in sequences.kept else flat


def _expand(encoded: Sequence[Encoded], expansion: Expansion, kinds: Sequence[str]) -> _Flat:
    """Every sample with its placeholders replaced by the rows they stand for."""
    lengths = np.array([len(sample.ids) for sample in encoded], np.int64)
    if not len(lengths) or not lengths.all():
        raise DataError("a sample without tokens cannot be laid out", where=f"sample {int(np.argmin(lengths))}")
    ids = np.concatenate([sample.ids for sample in encoded]).astype(np.int64)
    labels = np.concatenate([sample.labels for sample in encoded]).astype(np.int64)
    samples = np.repeat(np.arange(len(encoded)), lengths)
    _refuse_unknown(ids, samples, expansion)
    repeats, known = np.ones(len(ids), np.int64), np.full(len(ids), False)
    for placeholder, pieces in expansion.items():
        here = ids == placeholder
        repeats[here], known[here] = sum(count for _, count in pieces), True
    source = np.repeat(np.arange(len(ids)), repeats)
    feature = known[source]
    inner = _offsets(repeats)
    kind = np.full(len(source), _WORD)
    for placeholder, pieces in expansion.items():
        order = np.repeat([kinds.index(name) for name, _ in pieces], [count for _, count in pieces])
        here = ids[source] == placeholder
        kind[here] = order[inner[here]]
    return _Flat(
        ids=np.where(feature, 0, ids[source]),
        # A placeholder that is a word of the vocabulary may have to be said itself.
        labels=np.where(feature & ((ids[source] < 0) | (inner > 0)), IGNORE, labels[source]),
        kinds=kind,
        samples=samples[source],
        lengths=np.bincount(samples[source], minlength=len(encoded)),
    )


def _refuse_unknown(ids: np.ndarray, samples: np.ndarray, expansion: Expansion) -> None:
    unknown = np.flatnonzero((ids < 0) & ~np.isin(ids, list(expansion)))
    if len(unknown):
        first = int(unknown[0])
        raise DataError(
            f"placeholder {int(ids[first])} stands for nothing this model knows",
            where=f"sample {int(samples[first])}",
            known=sorted(expansion),
        )


def _select(flat: _Flat, keep: np.ndarray) -> _Flat:
    samples = flat.samples[keep]
    return _Flat(
        flat.ids[keep],
        flat.labels[keep],
        flat.kinds[keep],
        samples,
        np.bincount(samples, minlength=len(flat.lengths)),
    )


def _offsets(lengths: np.ndarray) -> np.ndarray:
    """0, 1, ..., length - 1 for every length, end to end."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)


def _place(
    lengths: np.ndarray, padding_side: Literal["left", "right"], pack_to: int | None
) -> tuple[list[Location], tuple[int, int]]:
    """A location for every sample, and the shape that holds them all."""
    if pack_to is not None:
        return _pack(lengths, pack_to)
    longest = int(lengths.max())
    starts = longest - lengths if padding_side == "left" else np.zeros_like(lengths)
    places = zip(starts.tolist(), lengths.tolist(), strict=True)
    return [Location(row, start, length) for row, (start, length) in enumerate(places)], (len(lengths), longest)


def _pack(lengths: np.ndarray, pack_to: int) -> tuple[list[Location], tuple[int, int]]:
    """As many rows as waste the fewest positions; among nearly equal ones more and shorter rows, which attend less.

    Every number of rows is tried with samples spread evenly, and rows filled one after the other up to `pack_to`.
    """
    if lengths.max() > pack_to:
        raise RecipeError(
            f"a sample of {int(lengths.max())} positions does not fit a packed row of {pack_to}",
            where=f"sample {int(lengths.argmax())}",
            do="cut samples to the row's length with max_length, or pack into longer rows",
        )
    fewest = -(-int(lengths.sum()) // pack_to)
    balanced = [_balance(lengths, rows) for rows in range(fewest, len(lengths) + 1)]
    fitting = [_fill_up(lengths, pack_to), *(rows for rows in balanced if _longest(rows) <= pack_to)]
    least = min(len(rows) * _longest(rows) for rows in fitting)
    best = max((rows for rows in fitting if len(rows) * _longest(rows) <= 1.01 * least), key=len)
    places: dict[int, Location] = {}
    for number, row in enumerate(best):
        start = 0
        for sample, length in row:
            places[sample] = Location(number, start, length)
            start += length
    return [places[sample] for sample in range(len(lengths))], (len(best), _longest(best))


_Rows = list[list[tuple[int, int]]]
"""Samples with their lengths, row by row."""


def _longest(rows: _Rows) -> int:
    return max(sum(length for _, length in row) for row in rows)


def _balance(lengths: np.ndarray, count: int) -> _Rows:
    """Longest sample first, each into the emptiest of `count` rows."""
    rows: _Rows = [[] for _ in range(count)]
    emptiest = [(0, row) for row in range(count)]
    for sample in np.argsort(-lengths, kind="stable").tolist():
        used, row = heapq.heappop(emptiest)
        rows[row].append((sample, int(lengths[sample])))
        heapq.heappush(emptiest, (used + int(lengths[sample]), row))
    return rows


def _fill_up(lengths: np.ndarray, pack_to: int) -> _Rows:
    """Longest sample first, each into the fullest row that still holds it."""
    rows: _Rows = []
    used: list[int] = []
    for sample in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[sample])
        row = max((r for r, u in enumerate(used) if u + length <= pack_to), key=used.__getitem__, default=len(used))
        if row == len(used):
            rows.append([])
            used.append(0)
        rows[row].append((sample, length))
        used[row] += length
    return rows


def _numbers_in_rows(rows: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """For every sample, how many samples stand before it in its row."""
    order = np.lexsort((starts, rows))
    numbers = np.empty(len(rows), np.int64)
    numbers[order] = _offsets(np.bincount(rows))
    return numbers


def _scatter(values: np.ndarray, where: np.ndarray, shape: tuple[int, int], fill: int | bool | np.ndarray) -> Tensor:
    result = np.full(shape, fill, values.dtype)
    result.reshape(-1)[where] = values
    return torch.from_numpy(result)


def _tensors(arrays: Mapping[str, Iterable[int] | np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
