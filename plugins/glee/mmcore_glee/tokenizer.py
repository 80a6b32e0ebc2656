"""CLIP's byte-pair tokenizer with exactly the published ids, built from the merges that come with this package.

CLIP's vocabulary follows from its merges (Radford et al. 2021): 256 byte symbols, the same 256 as word ends, one
symbol per merge, begin and end. So no tokenizer file is downloaded. Padding is the end token with mask 0.
"""

import gzip
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

START_ID = 49406
END_ID = 49407
"""Also the padding id."""
MAX_TOKENS = 77
"""Positions of CLIP's text encoder; longer texts are cut, the end token stays."""


def tokenise(
    texts: Sequence[str], length: int | None = None
) -> tuple[Int[Tensor, "texts tokens"], Int[Tensor, "texts tokens"]]:
    """Token ids and attention mask of several texts.

    Args:
        texts: names or expressions, taken verbatim.
        length: pad to this many tokens; None pads to the longest text.

    Returns:
        ids: (texts, tokens) int64, padded on the right with the end token.
        mask: (texts, tokens) int64, 1 for begin, words and the first end token.
    """
    rows = [token_ids(text) for text in texts]
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    width = length if length is not None else max((len(row) for row in rows), default=0)
    padded = [row + (END_ID,) * (width - len(row)) for row in rows]
    ids = torch.tensor(padded, dtype=torch.int64).reshape(len(rows), width)
    return ids, (torch.arange(width) < lengths[:, None]).to(torch.int64)


@lru_cache(maxsize=1 << 16)
def token_ids(text: str) -> tuple[int, ...]:
    """Ids of one text with begin and end, at most 77, without padding."""
    # The backend's `encode` works on one text in this thread. The batched call starts a thread pool, which data
    # workers forked later would warn about.
    ids = clip_tokenizer().backend_tokenizer.encode(text).ids
    return tuple(ids) if len(ids) <= MAX_TOKENS else (*ids[: MAX_TOKENS - 1], END_ID)


@cache
def clip_tokenizer() -> "CLIPTokenizer":
    """transformers' tokenizer over the packaged merges; one per process, built at first use."""
    from transformers import CLIPTokenizer

    merges = _merges()
    return CLIPTokenizer(vocab=_vocabulary(merges), merges=merges)  # type: ignore[arg-type]  # pairs, as its BPE takes


def _merges() -> list[tuple[str, str]]:
    packed = files("mmcore_glee").joinpath("data", "clip_merges.txt.gz").read_bytes()
    pairs = (line.split(" ") for line in gzip.decompress(packed).decode().splitlines())
    return [(first, second) for first, second in pairs]


def _vocabulary(merges: Sequence[tuple[str, str]]) -> dict[str, int]:
    letters = _byte_symbols()
    symbols = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    return {symbol: index for index, symbol in enumerate([*symbols, "<|startoftext|>", "<|endoftext|>"])}


def _byte_symbols() -> list[str]:
    """One visible character per byte: printable Latin-1 stands for itself, the other 68 bytes follow from U+0100."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(code) for code in visible] + [chr(256 + i) for i in range(256 - len(visible))]
