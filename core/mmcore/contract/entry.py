"""The base of every recipe part: what is written is what is meant, or it is refused."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator

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
