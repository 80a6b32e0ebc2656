"""Who a family is, as one value: what `mmcore plugins` shows and what a run chooses from."""

from typing import Any, Literal

from pydantic import Field, field_validator

from mmcore.contract.entry import Recipe


class Family(Recipe):
    """The answer to the hook `family`."""

    name: str
    """As `--plugin` takes it; the plugin's entry point has the same."""
    title: str
    """One line for people."""
    variants: tuple[str, ...] = ("default",)
    """Sizes of the model, the published ones and perhaps `tiny`, which --demo and the tests use; the first is the
    default."""
    learns: tuple[str, ...] = ()
    """Tasks of annotations from which it can learn own data, such as "detect" (`mmcore data formats` lists them)."""
    judged: dict[str, str] = Field(default={})
    """Task -> the figure that its validation gives, where the family does not judge by the protocol of the annotation
    format: own data keep their best checkpoint by it. Of several tasks that a file serves the first one here counts."""
    bases: tuple[Literal["language", "vision"], ...] = ()
    """Parts of its models that a user may name by a folder of transformers (`model.language=DIR`), for families on
    `mmcore.language.llava`: the folder's sizes then stand in `model.language` and `model.tower`."""
    plain_llava: tuple[str, str] | None = None
    """Variant and stage that are a LLaVA and nothing else: folders of transformers' `LlavaForConditionalGeneration` are
    opened as such for `predict`, `eval` and `mmcore.load`. None for a family that has none."""
    hub: tuple[str, ...] = ()
    """Where its published checkpoints are: `hf://OWNER/NAME`, with or without a file."""
    shorthands: dict[str, dict[str, Any]] = Field(default={})
    """Switches by the names that users know -> the recipe's entries that they stand for: `--set freeze_llm=true`. Lists
    are added to what the stage has in `frozen`; everything else takes its place."""
    requires_api: str = ""
    """Versions of the core's API that it works with, such as ">=0.2,<0.3"; empty for any."""

    @field_validator("variants")
    @classmethod
    def _some(cls, variants: tuple[str, ...]) -> tuple[str, ...]:
        if not variants or not all(variants) or len(set(variants)) < len(variants):
            raise ValueError("name at least one variant, and each once")
        return variants
