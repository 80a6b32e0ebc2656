"""Text as slow tokenizers wrote it: where blanks stood around added tokens, beginnings and ends.

Published code that reads its own answers by pattern was written for such text.
"""

from collections.abc import Sequence
from typing import Any


def decode_slowly(tokenizer: Any, ids: Sequence[int], added: Sequence[str], *, skip_special: bool = False) -> str:
    """Ids to text as the slow tokenizer of transformers 4.28 wrote it: a blank on either side of an added token, one
    before a beginning or an end.

    Args:
        tokenizer: of any class.
        ids: without placeholders.
        added: the tokens that were added to its vocabulary.
        skip_special: leave beginnings, ends and padding out; added tokens stay.
    """
    of_id = {int(tokenizer.convert_tokens_to_ids(token)): token for token in added}
    special = {int(number) for number in tokenizer.all_special_ids} - set(of_id)
    pieces: list[str] = []
    stretch: list[int] = []
    for number in (int(number) for number in ids):
        if skip_special and number in special:
            continue
        if number in of_id:
            pieces += [_stretch(tokenizer, stretch, special)] * bool(stretch) + [of_id[number]]
            stretch = []
        else:
            stretch.append(number)
    return " ".join(pieces + [_stretch(tokenizer, stretch, special)] * bool(stretch))


def _stretch(tokenizer: Any, ids: Sequence[int], special: set[int]) -> str:
    """The text of ids without added tokens."""
    text, words, after_special = "", [], False
    for place, number in enumerate(ids):
        if number not in special:
            words.append(number)
            after_special = False
            continue
        text += (" " if place and not after_special else "") + _words(tokenizer, words)
        text += str(tokenizer.convert_ids_to_tokens(number))
        words, after_special = [], True
    return text + _words(tokenizer, words)


def _words(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)) if ids else ""
