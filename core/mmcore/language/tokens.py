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

from mmcore.base import hub
from mmcore.base.jsonfile import read_json
from mmcore.errors import MissingDataError, RecipeError, WeightsError
from mmcore.language.conversation import MARKER, Template
from mmcore.language.sequence import IMAGE

PAD = "<pad>"
"""Added where a tokenizer has neither a padding nor an unknown token, as Llama 3."""

PREFIX = "▁"
"""SentencePiece's space."""

IMAGES: Mapping[str, int] = {MARKER: IMAGE}
"""The usual placeholders."""

_REMEMBERED = 512
"""Stretches of text whose ids are kept; all of one conversation, and the prompts that every one begins with."""

_WHITE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
"""What Rust calls white space; Python adds four control characters."""


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
        settings = _settings(source)
        if settings.get("add_bos_token", True):
            tokenizer.add_bos_token = True  # version 5 leaves it out where the files do not ask for it
        legacy = settings.get("legacy") is not False if legacy is None else legacy
        _restore_prefix(tokenizer, legacy)
        tokenizer.init_kwargs["legacy"] = legacy  # so that a saved copy reads as this one does
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
    return np.array(encoder_of(tokenizer).ids(text, placeholders), np.int64)


class Encoder:
    """A tokenizer's ids without its layers, every stretch between added tokens looked up before it is computed.

    Masking asks for the whole text, then for every round and every question in it: the same stretches again and again,
    as are system prompts and headers over all samples. The Rust tokenizer cuts at added tokens before anything else,
    so the ids of a text are those of its stretches; whether that holds for a tokenizer is tried before it is used.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._backend = tokenizer.backend_tokenizer
        self.bos: int | None = tokenizer.bos_token_id
        self.size = len(tokenizer)
        added = {id_: token for id_, token in tokenizer.added_tokens_decoder.items() if token.content}
        self._added = {token.content: id_ for id_, token in added.items()}
        self._strips = {token.content: (token.lstrip, token.rstrip) for token in added.values()}
        self._cut = _splitter(tuple(sorted(self._added, key=len, reverse=True)))
        self._front = self._backend.encode("").ids
        # The Rust prefix rule leaves out texts that begin with a space; one more space makes up for it.
        self._first_only = _prefix_scheme(self._backend) == "first"
        self._stretch = lru_cache(_REMEMBERED)(self._encode_stretch)
        plain = all(not token.normalized and not token.single_word for token in added.values())
        self._by_stretches = bool(self._added) and plain and self._agrees()
        self._stretch.cache_clear()

    def ids(self, text: str, placeholders: Mapping[str, int] | None = IMAGES) -> list[int]:
        """`tokenize` as a list."""
        if not placeholders:
            return self._encode(text)
        first, *rest = _splitter(tuple(placeholders)).split(text)
        ids = self._encode(first)
        skip = int(bool(ids) and ids[0] == self.bos)
        for marker, piece in zip(rest[::2], rest[1::2]):
            ids.append(placeholders[marker])
            ids += self._encode(piece)[skip:]
        return ids

    def _encode(self, text: str) -> list[int]:
        return self._joined(text) if self._by_stretches else self._whole(text)

    def _whole(self, text: str) -> list[int]:
        return self._backend.encode(self._prefixed(text)).ids

    def _prefixed(self, text: str) -> str:
        return " " + text if self._first_only and text.startswith((" ", PREFIX)) else text

    def _joined(self, text: str) -> list[int]:
        ids = list(self._front)
        stretches = self._cut.split(text)
        last = len(stretches) - 1
        for place in range(0, last + 1, 2):
            stretch = stretches[place]
            if place and self._strips[stretches[place - 1]][1]:
                stretch = stretch.lstrip(_WHITE)
            if place < last and self._strips[stretches[place + 1]][0]:
                stretch = stretch.rstrip(_WHITE)
            if stretch:
                ids += self._stretch(stretch, place == 0)
            if place < last:
                ids.append(self._added[stretches[place + 1]])
        return ids

    def _encode_stretch(self, text: str, first: bool) -> list[int]:
        """The ids of a text without added tokens, at the beginning of the whole or further on."""
        if first or not self._first_only:
            return self._backend.encode(self._prefixed(text), add_special_tokens=False).ids
        # Behind a token that swallows nothing it does not stand first, and gets no prefix.
        lead = next(token for token, strips in self._strips.items() if not any(strips))
        return self._backend.encode(lead + text, add_special_tokens=False).ids[1:]

    def _agrees(self) -> bool:
        """Whether stretches give the same ids as the whole, on a text with every kind of neighbour."""
        some = [*self._added][:4] + [*self._added][-4:]
        if self._first_only and all(any(strips) for strips in self._strips.values()):
            return False
        tries = ["", " a b", "a", *(f"{a}{b} a{b}\n{a} \n{b}  café 12{a}" for a in some for b in some)]
        return all(self._joined(text) == self._whole(text) for text in tries)


_ENCODERS: WeakKeyDictionary[Any, Encoder] = WeakKeyDictionary()


def encoder_of(tokenizer: Any) -> Encoder:
    """The encoder of a tokenizer, made anew when tokens were added to it."""
    encoder = _ENCODERS.get(tokenizer)
    if encoder is None or encoder.size != len(tokenizer):
        encoder = _ENCODERS[tokenizer] = Encoder(tokenizer)
    return encoder


@lru_cache(64)
def _splitter(markers: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(f"({'|'.join(map(re.escape, markers))})")


def open_auto(source: str | Path, *, local_files_only: bool) -> Any:
    """A tokenizer by transformers' own choice of class.

    It asks `config.json` for the kind of model first, and warns of every kind that it does not know; that of a folder
    that mmcore exported is ours, and the tokenizer's own files say all there is to know.
    """
    from transformers import AutoTokenizer, PreTrainedConfig

    config = read_json(path, {}) if (path := Path(source) / "config.json").is_file() else {}
    known = {"config": PreTrainedConfig()} if "mmcore" in config else {}
    return AutoTokenizer.from_pretrained(
        str(source), local_files_only=local_files_only, trust_remote_code=False, **known
    )


def _open(source: str | Path) -> Any:
    from transformers import LlamaTokenizer

    path = Path(source)
    if path.exists() and path.is_dir() and not any(path.glob("*token*")):
        raise MissingDataError(
            "there are no tokenizer files", where=path, do="copy the language model's tokenizer here"
        )
    try:
        if path.is_file():
            return LlamaTokenizer.from_pretrained(str(path.parent), trust_remote_code=False)
        quiet = not path.is_dir() and hub.silence() is not None
        here = path.is_dir() or quiet
        return open_auto(source, local_files_only=here)
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        if not path.exists() and hub.silence() is not None:
            raise hub.missing(
                f"tokenizer {source}",
                "put its files into the folder `weights/NAME` of the data root, or go online once",
            ) from None
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


def _settings(source: str | Path) -> dict[str, Any]:
    """`tokenizer_config.json`, of which transformers keeps only what it understands."""
    from transformers.utils.hub import cached_file

    folder = Path(source).parent if Path(source).is_file() else source
    # The tokenizer was opened before, so the file is here if there is one.
    path = cached_file(
        str(folder),
        "tokenizer_config.json",
        local_files_only=True,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return json.loads(Path(path).read_text()) if path else {}


def _restore_prefix(tokenizer: Any, legacy: bool) -> None:
    """The slow tokenizer's prefix rule; the half that the Rust code cannot express is in `Encoder`."""
    from tokenizers import normalizers, pre_tokenizers

    backend = tokenizer.backend_tokenizer
    if legacy:
        # Normalisers see every piece between added tokens on its own.
        backend.normalizer = normalizers.Sequence([normalizers.Prepend(PREFIX), normalizers.Replace(" ", PREFIX)])
        backend.pre_tokenizer = None
    else:
        backend.normalizer = None
        backend.pre_tokenizer = pre_tokenizers.Metaspace(PREFIX, prepend_scheme="first", split=False)
