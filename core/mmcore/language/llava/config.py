"""The settings that LLaVA and its descendants share; a family's configuration inherits them and adds its own."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self, get_args, get_origin, get_type_hints

from mmcore.contract.entry import check_entries
from mmcore.errors import RecipeError
from mmcore.language.collate import ConversationCollator
from mmcore.language.conversation_templates import template
from mmcore.language.processor import Processor
from mmcore.language.sequence import IMAGE
from mmcore.vision.clip_images import ClipImages
from mmcore.vision.clip_vit import ClipTower
from mmcore.vision.projectors import projected_tokens
from mmcore.vision.towers import Tower, image_options, make_tower


@dataclass(frozen=True, kw_only=True, slots=True)
class LlavaConfig:
    """Sizes and switches of a vision tower, a projector and a language model."""

    FAMILY: ClassVar[str] = "LLaVA"
    """What messages call it."""
    PARTS: ClassVar[tuple[str, ...]] = ("tower",)
    """Settings that hold settings; a recipe changes single ones of them."""
    NESTED: ClassVar[Mapping[str, type]] = {}
    """Further settings that the family takes apart itself, with the plain type that recipes write them in."""

    language: Mapping[str, Any]
    """Configuration of the language model as transformers writes it; published ones in `mmcore.language.sizes`. A
    recipe may name a folder instead (`mmcore.language.llava.base`)."""
    tower: Tower = field(default_factory=ClipTower)
    projector: str = "mlp2x_gelu"
    """Published name of the projector, see `mmcore.vision.projectors`."""
    tokenizer: str = ""
    """Folder or Hub name of the tokenizer."""
    template: str = "vicuna_v1"
    """Conversation template of `mmcore.language.conversation_templates`."""
    after_image_text: str = ""
    """Written right behind every image: the tokens with which an exported folder keeps its family's vectors."""
    suppressed: tuple[int, ...] = ()
    """Ids that are never said, as an exported folder lists them; rows that are no word never are."""
    max_length: int = 4096
    """Longest sequence after images and what follows them were put in, tokens."""
    image_aspect: Literal["square", "pad", "squash"] = "square"
    """How a picture becomes square: its centre is cut out, it is padded, or its aspect ratio is lost."""
    attention: Literal["sdpa", "eager", "varlen"] = "sdpa"
    """Attention kernel of the language model, see `mmcore.language.attention`."""

    def __post_init__(self) -> None:
        check_choices(self)
        if missing := [
            name for name in ("model_type", "hidden_size", "num_hidden_layers") if name not in self.language
        ]:
            raise RecipeError(
                f"the language model's {missing[0]} is not said",
                where="model.language",
                do="an entry model_type begins a model of its own: give all of its sizes, or model.language=FOLDER",
            )

    def replace(self, **changes: Any) -> Self:
        """A copy with some entries changed; mappings for nested parts change single entries of them.

        A language model that says its `model_type` and a tower that says its `kind` are whole: nothing of the old one
        stays.

        Raises:
            RecipeError: an entry does not exist, with the nearest one, or is of another type.
        """
        nested = {"language": Mapping, **dict.fromkeys(self.PARTS, Mapping), **self.NESTED}
        check_entries(type(self), changes, f"{self.FAMILY} has no model setting", "model", nested=nested)
        if isinstance(language := changes.get("language"), Mapping):
            changes["language"] = _replace_language(self.language, language)
        for part in self.PARTS:
            if isinstance(entries := changes.get(part), Mapping):
                whole = part == "tower" and "kind" in entries
                changes[part] = make_tower(entries) if whole else replace_part(part, getattr(self, part), entries)
        return replace(self, **changes)

    @property
    def width(self) -> int:
        """Channels of the language model."""
        return int(self.language["hidden_size"])

    @property
    def num_layers(self) -> int:
        """Layers of the language model."""
        return int(self.language["num_hidden_layers"])

    @property
    def image_size(self) -> int:
        """Side of the picture that the tower takes, pixels."""
        return self.tower.image_size

    @property
    def image_tokens(self) -> int:
        """Rows of one image in the sequence, without what follows it."""
        return self.tower.num_tokens + projected_tokens(self.projector, self.tower.grid) - self.tower.grid**2

    @property
    def after_image(self) -> tuple[tuple[str, int], ...]:
        """Kinds of rows that follow every image, and how many, in order."""
        return ()

    @property
    def expansion(self) -> Mapping[int, tuple[tuple[str, int], ...]]:
        """What a placeholder becomes, for `mmcore.language.splice.lay_out`."""
        return {IMAGE: (("image", self.image_tokens), *self.after_image)}

    def processor(self, tokenizer: Any, max_length: int | None = None) -> Processor:
        """How text and pictures are read.

        Args:
            tokenizer: of the language model.
            max_length: of the stage, where it is shorter.
        """
        return Processor(
            template=dataclasses.replace(template(self.template), after_image=self.after_image_text),
            tokenizer=tokenizer,
            pixels=ClipImages(self.image_size, self.image_aspect, **image_options(self.tower)),
            max_length=min(self.max_length, max_length or self.max_length),
            image_rows=sum(rows for _, rows in self.expansion[IMAGE]),
        )

    def collator(self, processor: Processor, **layout: Any) -> ConversationCollator:
        """What makes batches of samples; `layout` is its `padding_side` or `pack_to`."""
        return ConversationCollator(
            self.expansion,
            self.image_size,
            processor.max_length,
            tokenizer=processor.tokenizer,
            pixels=processor.pixels,
            **layout,
        )


def _replace_language(old: Mapping[str, Any], entries: Mapping[str, Any]) -> dict[str, Any]:
    return dict(entries) if "model_type" in entries else {**old, **entries}


def check_choices(settings: Any, where: str = "model.") -> None:
    """Refuse a value that is none of those its field's type lists (`Literal`).

    Raises:
        RecipeError: names the setting and what there is.
    """
    for name, kind in get_type_hints(type(settings)).items():
        if get_origin(kind) is Literal and getattr(settings, name) not in get_args(kind):
            raise RecipeError(
                f"{name} cannot be {getattr(settings, name)!r}", where=f"{where}{name}", known=get_args(kind)
            )


def replace_part(part: str, old: Any, entries: Mapping[str, Any]) -> Any:
    """A nested setting with some entries changed; recipes hold plain data, so lists become tuples.

    Raises:
        RecipeError: there is no such part or entry, or a value is of another type.
    """
    if old is None:
        raise RecipeError(f"this variant has no {part}", where=f"model.{part}")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in entries.items()}
    check_entries(type(old), values, f"{part} has no setting", f"model.{part}")
    return replace(old, **values)
