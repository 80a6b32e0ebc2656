"""Text to token ids exactly as the published code had them, through today's tokenizers.

The published families used the slow SentencePiece tokenizer of transformers 4; in version 5 only the Rust one is left.
They differ in the dummy prefix, the `▁` that SentencePiece puts before a text: the slow one adds it always, the fast
one only where the text does not begin with a space already. `load_tokenizer` and `tokenize` restore the slow rule in
both of its forms, before the whole text (`legacy: false`) and before every piece between added tokens (`legacy: true`).
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Int

from mmcore.errors import MissingDataError, RecipeError, WeightsError
from mmcore.language.conversation import MARKER, Template
from mmcore.language.sequence import IMAGE

PAD = "<pad>"
"""Added where a tokenizer has neither a padding nor an unknown token, as Llama 3."""

PREFIX = "▁"
"""SentencePiece's space."""

IMAGES: Mapping[str, int] = {MARKER: IMAGE}
"""The usual placeholders."""

_REMEMBERED = 64
"""Constant beginnings (system prompt and header) kept per tokenizer."""


def load_tokenizer(
    source: str | Path,
    *,
    template: Template | None = None,
    pad: Literal["own", "unknown"] = "own",
    legacy: bool | None = None,
    added: Sequence[str] = (),
) -> Any:
    """A transformers tokenizer that gives the published ids.

    Args:
        source: a folder with tokenizer files, a lone `tokenizer.model`, or a name on the hub.
        template: whose tokens it must have.
        pad: keep its own padding token where it has one, or pad with the unknown token where it has one (Griffon,
            GLaMM). Without either, `<pad>` is added as the last id.
        legacy: whether every piece between added tokens gets SentencePiece's prefix; None reads the files, in which
            the absence of the entry means that it does.
        added: tokens to append, each swallowing the blanks around it as the slow tokenizer had it (GLaMM).

    Raises:
        MissingDataError: there are no tokenizer files.
        WeightsError: the files are damaged, or SentencePiece is needed to read them and is not installed.
        RecipeError: the template needs tokens that are not there.
    """
    tokenizer = _open(source)
    if _is_sentencepiece(tokenizer):
        _restore_prefix(tokenizer, _is_legacy(source) if legacy is None else legacy)
    if added:
        from tokenizers import AddedToken

        tokenizer.add_tokens(
            [AddedToken(text, lstrip=True, rstrip=True, normalized=False, special=True) for text in added]
        )
    if tokenizer.unk_token is not None and (pad == "unknown" or tokenizer.pad_token is None):
        tokenizer.pad_token = tokenizer.unk_token
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": PAD})
    if template is not None:
        require_tokens(tokenizer, template)
    return tokenizer


def require_tokens(tokenizer: Any, template: Template) -> None:
    """Refuse a tokenizer to which the template's separators are ordinary text.

    Raises:
        RecipeError: names the tokens.
    """
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in template.tokens if token not in vocabulary]
    if missing:
        raise RecipeError(
            f"the tokenizer lacks {', '.join(missing)}, which the template {template.name} is written in",
            where=f"tokenizer {tokenizer.name_or_path}",
            known=[token for token in tokenizer.added_tokens_encoder if token != PAD],
            do="take the tokenizer of the language model that the recipe names, or the template that fits this one",
        )


def tokenize(text: str, tokenizer: Any, placeholders: Mapping[str, int] | None = IMAGES) -> Int[np.ndarray, " tokens"]:
    """The ids of a text, its placeholders as negative ids, with at most one BOS.

    As published, the text is cut at the placeholders and each piece tokenised as a text of its own, so each gets its
    own dummy prefix; the BOS of later pieces is dropped.

    Args:
        text: may hold placeholders.
        tokenizer: from `load_tokenizer`.
        placeholders: marker -> negative id; None or empty takes them for ordinary text.
    """
    return np.array(ids_of(text, tokenizer, placeholders), np.int64)


def ids_of(text: str, tokenizer: Any, placeholders: Mapping[str, int] | None = IMAGES) -> list[int]:
    """`tokenize` as a list, for counting."""
    encoder = _encoder(tokenizer)
    if not placeholders:
        return encoder.encode(text)
    first, *rest = _splitter(tuple(placeholders)).split(text)
    if not rest:
        return encoder.encode(first)
    ids = list(encoder.remembered(first))
    skip = int(bool(ids) and ids[0] == encoder.bos)
    for marker, piece in zip(rest[::2], rest[1::2]):
        ids.append(placeholders[marker])
        ids += encoder.encode(piece)[skip:]
    return ids


class _Encoder:
    """The Rust tokenizer behind a transformers one, without the layers between that cost more than it does."""

    def __init__(self, tokenizer: Any) -> None:
        self._backend = tokenizer.backend_tokenizer
        self.size = len(tokenizer)
        self.bos = tokenizer.bos_token_id
        # The Rust prefix rule leaves out texts that begin with a space; one more space makes up for it.
        self._always = _prefix_scheme(self._backend) == "first"
        self.remembered = lru_cache(_REMEMBERED)(self.encode)

    def encode(self, text: str) -> list[int]:
        if self._always and text.startswith((" ", PREFIX)):
            text = " " + text
        return self._backend.encode(text).ids


_ENCODERS: WeakKeyDictionary[Any, _Encoder] = WeakKeyDictionary()


def _encoder(tokenizer: Any) -> _Encoder:
    encoder = _ENCODERS.get(tokenizer)
    if encoder is None or encoder.size != len(tokenizer):
        encoder = _ENCODERS[tokenizer] = _Encoder(tokenizer)
    return encoder


@lru_cache(16)
def _splitter(markers: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(f"({'|'.join(map(re.escape, markers))})")


def _open(source: str | Path) -> Any:
    from transformers import AutoTokenizer, LlamaTokenizer

    path = Path(source)
    if path.exists() and path.is_dir() and not any(path.glob("*token*")):
        raise MissingDataError(
            "there are no tokenizer files", where=path, do="copy the language model's tokenizer here"
        )
    try:
        if path.is_file():
            return LlamaTokenizer.from_pretrained(str(path.parent))
        return AutoTokenizer.from_pretrained(str(source), local_files_only=path.is_dir())
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        raise WeightsError(
            f"the tokenizer cannot be read: {str(error).strip().splitlines()[0]}",
            where=source,
            do="check the folder; one with tokenizer.model only needs `pip install sentencepiece protobuf`",
        ) from error


def _prefix_scheme(backend: Any) -> str | None:
    """Where SentencePiece's prefix goes: "first", "always", or None without one."""
    return getattr(backend.pre_tokenizer, "prepend_scheme", None)


def _is_sentencepiece(tokenizer: Any) -> bool:
    return _prefix_scheme(tokenizer.backend_tokenizer) in ("first", "always")


def _is_legacy(source: str | Path) -> bool:
    try:
        config = json.loads((Path(source) / "tokenizer_config.json").read_text())
    except (OSError, ValueError):
        return True
    return config.get("legacy") is not False


def _restore_prefix(tokenizer: Any, legacy: bool) -> None:
    """The slow tokenizer's prefix rule; the half that the Rust code cannot express is in `_Encoder.encode`."""
    from tokenizers import normalizers, pre_tokenizers

    backend = tokenizer.backend_tokenizer
    if legacy:
        # Normalisers see every piece between added tokens on its own.
        backend.normalizer = normalizers.Sequence([normalizers.Prepend(PREFIX), normalizers.Replace(" ", PREFIX)])
        backend.pre_tokenizer = None
    else:
        backend.normalizer = None
        backend.pre_tokenizer = pre_tokenizers.Metaspace(PREFIX, prepend_scheme="first", split=False)
