"""The wordings of a run: a family's banks, those of the recipe's file in their place (`mmcore.language.templates`)."""

from collections.abc import Mapping
from pathlib import Path

from mmcore.data.images import locate
from mmcore.language.templates import Bank, replace_banks


def wordings_of(banks: Mapping[str, Bank], root: Path, templates: str | None) -> dict[str, tuple[str, ...]]:
    """The wordings of every bank, those of a recipe's file in place of a family's own.

    Args:
        banks: of the family.
        root: of the data, below which the file is looked for.
        templates: the recipe's `data.templates`.

    Raises:
        RecipeError: the file names another bank, or a wording has other placeholders.
    """
    found = banks if templates is None else replace_banks(banks, locate(root, templates, "data.templates"))
    return {name: bank.wordings for name, bank in found.items()}
