"""The tokens that make a conversation point at pixels, and the tokenizer that knows them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mmcore.errors import RecipeError
from mmcore.language import tokenizer_files
from mmcore.language.conversation import MARKER
from mmcore.language.conversation_templates import template

if TYPE_CHECKING:
    from mmcore_glamm.config import GlammConfig

IMAGE_START, IMAGE_END, BOX, POINT, SEG, PHRASE, PHRASE_END = ADDED = (
    "<im_start>",
    "<im_end>",
    "<bbox>",
    "<point>",
    "[SEG]",
    "<p>",
    "</p>",
)
"""In the order of their ids: 32000 to 32006 as published, `<point>` unused."""
IMAGE_TEXT = f"{IMAGE_START}{MARKER}{IMAGE_END}"
"""How an image stands in a conversation."""
OVERVIEW = f"The {MARKER} provides an overview of the picture.\n"
"""What the first question of nearly every conversation begins with, as published: weights were trained on it."""


class TokenIds(NamedTuple):
    """Vocabulary ids that the model looks for."""

    box: int
    seg: int

    @classmethod
    def of(cls, tokenizer: Any) -> "TokenIds":
        """Those of a tokenizer from `open_tokenizer`."""
        return cls(*(int(tokenizer.convert_tokens_to_ids(token)) for token in (BOX, SEG)))


def open_tokenizer(config: "GlammConfig", places: Sequence[Path] = ()) -> Any:
    """The tokenizer that `config.tokenizer` names, with the tokens of boxes, masks and phrases.

    Args:
        config: `tokenizer` is a Hub name, a folder, or "tiny".
        places: folders to look into before the Hub is asked, in order.

    Raises:
        RecipeError: it lacks tokens, and the stage adds none; or its ids are none of the model's rows.
        WeightsError: it cannot be read.
    """
    from mmcore_glamm.tiny_tokenizer import write_tiny

    written, made = template(config.template), {"tiny": write_tiny}
    tokenizer = tokenizer_files.open_tokenizer(config.tokenizer, written, places, made, pad="unknown")
    missing = [token for token in ADDED if token not in tokenizer.get_vocab()]
    if missing and not config.add_tokens:
        raise RecipeError(
            f"the tokenizer lacks {', '.join(missing)}, with which GLaMM points at pixels",
            where=f"tokenizer {tokenizer.name_or_path}",
            do="take the tokenizer beside the weights, or --set model.add_tokens=true to begin from a model without",
        )
    from tokenizers import AddedToken

    # Each swallows the blanks around it, as the slow tokenizer of the published code did.
    tokenizer.add_tokens(
        [AddedToken(token, lstrip=True, rstrip=True, normalized=False, special=True) for token in ADDED],
        special_tokens=True,
    )
    rows = int(config.language["vocab_size"])
    if (top := max(tokenizer.convert_tokens_to_ids(list(ADDED)))) >= rows:
        raise RecipeError(
            f"the tokenizer's {tokenizer.convert_ids_to_tokens(top)} is number {top}, the model has {rows} words",
            where=f"tokenizer {tokenizer.name_or_path}",
            do="take the tokenizer beside the weights, or set model.language.vocab_size",
        )
    return tokenizer
