"""Which vocabulary rows stand for an image and for constant vectors after it in an exported folder.

A plain LLaVA knows vocabulary rows only, so the vectors become rows of the embedding matrix and the tokenizer gets a
token for each, beside one for the image. In this order:

1. reserved tokens (`<|reserved_special_token_7|>` of Llama 3), when the tokenizer has enough: the last ones. They are
   part of the trained vocabulary, so logits stay exactly what they were.
2. rows that no token uses (Phi-3 has 32064 rows for 32011 tokens): new tokens take them.
3. otherwise the matrices grow by the rows that are missing.

The published code drops logits of rows without a token when it loads a model. The exported folder cannot, so it lists
them as suppressed in generation, and with them the tokens of the image and of the vectors: a trained model says none
of these, and one that did would go on from a picture's vector.
"""

import copy
import re
from dataclasses import dataclass
from typing import Any

from mmcore.errors import WeightsError

IMAGE = "<image>"
_RESERVED = re.compile(r"<\|reserved_special_token_(\d+)\|>")


@dataclass(frozen=True, slots=True)
class Placement:
    """Tokens of an exported folder, and the tokenizer that knows them."""

    tokenizer: Any
    image: str
    """The image's placeholder."""
    image_id: int
    after: tuple[str, ...]
    """The tokens of the vectors, in the order in which they follow an image."""
    after_ids: tuple[int, ...]
    rows: int
    """Rows that embeddings and output layer need."""
    suppressed: tuple[int, ...]
    """Ids that must never be generated, in order: rows that are no word."""


def place(tokenizer: Any, count: int, rows: int, token: str = "<|after_image_{}|>") -> Placement:
    """Find tokens for an image and `count` vectors after it; the given tokenizer is left as it is.

    Args:
        tokenizer: of the trained model.
        count: vectors after each image; 0 for plain LLaVA.
        rows: of the trained embedding matrix.
        token: name of the vectors' tokens where none are reserved, `{}` for their number.

    Raises:
        WeightsError: the tokenizer has more tokens than the matrix has rows.
    """
    words = len(tokenizer)
    if words > rows:
        raise WeightsError(
            f"the tokenizer has {words} tokens, the model {rows} rows",
            where="tokenizer",
            do="use the tokenizer that the model was trained with",
        )
    tokenizer = copy.deepcopy(tokenizer)
    names = _reserved(tokenizer, rows)[-count - 1 :]
    if len(names) <= count:
        names = [token.format(i) for i in range(count)] + [IMAGE]
        tokenizer.add_special_tokens({"extra_special_tokens": names}, replace_extra_special_tokens=False)
    ids = [int(i) for i in tokenizer.convert_tokens_to_ids(names)]
    rows = max(rows, len(tokenizer), max(ids) + 1)
    suppressed = tuple(sorted({*range(words, rows), *ids}))
    return Placement(tokenizer, names[-1], ids[-1], tuple(names[:-1]), tuple(ids[:-1]), rows, suppressed)


def _reserved(tokenizer: Any, rows: int) -> list[str]:
    """Reserved tokens by number."""
    found = {name: _RESERVED.fullmatch(name) for name, index in tokenizer.get_vocab().items() if index < rows}
    return sorted((name for name, match in found.items() if match), key=lambda name: int(found[name][1]))  # type: ignore[index]
