"""The base of every recipe part: what is written is what is meant, or it is refused."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Self, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, model_validator

from mmcore.errors import RecipeError, suggest


class Recipe(BaseModel):
    """Base of every recipe part: frozen, strict, and unknown keys are refused with the nearest known one."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, values: Any) -> Any:
        if isinstance(values, dict):
            known = list(cls.model_fields)
            for key in values:
                if key not in cls.model_fields:
                    raise RecipeError(
                        f"{cls.__name__} has no key {key!r}",
                        known=known,
                        do=suggest(str(key), known, "remove it or choose one of these"),
                    )
        return values

    def replace(self, **changes: Any) -> Self:
        """A copy with some entries changed, checked again as a whole.

        Raises:
            RecipeError: a key does not exist.
        """
        return type(self).model_validate({**dict(self), **changes})


Part = TypeVar("Part", bound=Recipe)


def check_entries(
    shape: type,
    entries: Mapping[str, Any],
    what: str,
    where: str,
    *,
    typed: bool = True,
    nested: Mapping[str, type] | None = None,
) -> None:
    """Refuse entries of a free group (`model`, `data.transform`) that the family has no use for.

    Args:
        shape: a dataclass or a `Recipe` whose fields are the known entries, with their types.
        entries: as the recipe has them.
        what: begins the message: "GLEE has no model setting".
        where: the group.
        typed: also check the values; False where the family does so itself.
        nested: entries that the family takes apart and checks itself, with the plain type that they then have.

    Raises:
        RecipeError: there is no such entry, with the nearest one, or its value is of another type.
    """
    known = [field.name for field in fields(shape)] if is_dataclass(shape) else list(shape.model_fields)
    types = get_type_hints(shape)
    for name, value in entries.items():
        if name not in known:
            do = suggest(name, known, "remove it or choose one of these")
            raise RecipeError(f"{what} {name!r}", where=f"{where}.{name}", known=known, do=do)
        if not typed or (nested and isinstance(value, nested.get(name, ()))):
            continue
        try:
            TypeAdapter(types[name]).validate_python(value, strict=True)
        except ValidationError as error:
            said = error.errors()[0]["msg"].lower()
            raise RecipeError(f"{name} cannot be {value!r}: {said}", where=f"{where}.{name}") from None


def read_entries(shape: type[Part], entries: Mapping[str, Any], what: str, where: str) -> Part:
    """A free group as a family's own part of the recipe; arguments as for `check_entries`.

    Raises:
        RecipeError: there is no such entry, its value is of another type, or one is missing.
    """
    check_entries(shape, entries, what, where)
    try:
        return shape.model_validate(dict(entries))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join((where, *map(str, first["loc"])))
        raise RecipeError(f"{key}: {first['msg'].lower()}", where=where) from None
