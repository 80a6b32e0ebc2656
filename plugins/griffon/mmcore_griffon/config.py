"""Every size and constant of Griffon's architecture, for each published size and for laptops.

Numbers are those of jefferyZhan/Griffon (9866875): `griffon/model`, `scripts/gemma2`, and of the language models' own
configurations. The scripts of LLaMA2 and Qwen2.5 were never published; sizes are those of the language models named in
the papers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from mmcore.contract.recipe import Stage
from mmcore.errors import RecipeError
from mmcore.language.conversation import MARKER
from mmcore.language.llava.config import LlavaConfig
from mmcore.language.processor import Processor
from mmcore.language.sequence import IMAGE, REGION
from mmcore.language.sizes import GEMMA2_9B, GEMMA2_27B, LLAMA2_7B, LLAMA2_13B, QWEN25_7B
from mmcore.language.sizes import TINY as SMALL
from mmcore.vision.clip_images import ClipImages
from mmcore.vision.clip_vit import ClipTower

from mmcore_griffon.answers import BOXES

VERSIONS = {"llava_llama_3": "llama_3_turns"}
"""Published conversation version -> our template, where another family's has that name."""
REGION_MARKER = "<region>"
"""Where a visual prompt stands in the text."""
CLIP_336 = "openai/clip-vit-large-patch14-336"
CLIP_224 = "openai/clip-vit-large-patch14"

HIGH = ClipTower(image_size=1022, name="clip-vit-large-path14-336_to_1022")
"""ViT-L/14 with its 24 x 24 positions enlarged to 73 x 73; the folder's name is spelt as published."""
LOW = ClipTower(image_size=448, name="clip-vit-large-path14-224_to_448")
"""Griffon v1's: 16 x 16 positions enlarged to 32 x 32."""
REGION_TOWER = ClipTower(image_size=224, select_layer=-1, select_feature="cls", name=CLIP_224)
"""The encoder of visual prompts: the class token behind the last layer, before the last norm."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GriffonConfig(LlavaConfig):
    """Sizes and switches of one Griffon; the defaults are Griffon-G with Gemma 2 9B."""

    FAMILY: ClassVar[str] = "Griffon"
    PARTS: ClassVar[tuple[str, ...]] = ("tower", "region_tower")

    language: Mapping[str, Any] = field(default_factory=lambda: dict(GEMMA2_9B))
    tower: ClipTower = HIGH
    projector: str = "conv_reduce"
    tokenizer: str = "google/gemma-2-9b-it"
    template: str = "gemma_instruct"
    image_aspect: Literal["square", "pad", "squash"] = "squash"
    region_tower: ClipTower | None = REGION_TOWER
    """What a visual prompt is seen with, to become one token; None has it seen as a second image by the main tower, as
    the published code does without `unshared_visual_encoder`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "template", VERSIONS.get(self.template, self.template))
        LlavaConfig.__post_init__(self)
        if self.region_tower is not None and self.region_tower.num_tokens != 1:
            raise RecipeError(
                f"a visual prompt becomes one token, not {self.region_tower.num_tokens}",
                where="model.region_tower.select_feature",
                do="leave it at cls",
            )

    @property
    def expansion(self) -> Mapping[int, tuple[tuple[str, int], ...]]:
        """An image becomes its rows, a visual prompt one row, or a second image's where no encoder is its own."""
        image = ("image", self.image_tokens)
        return {IMAGE: (image,), REGION: (image,) if self.region_tower is None else (("region", 1),)}

    @property
    def region_size(self) -> int:
        """Side of the picture that a visual prompt becomes, pixels."""
        return self.image_size if self.region_tower is None else self.region_tower.image_size

    def processor(self, tokenizer: Any, max_length: int | None = None) -> Processor:
        """How text and pictures are read; pictures lose their aspect ratio, bilinear (griffon/datasets)."""
        plain = super(GriffonConfig, self).processor(tokenizer, max_length)
        return replace(
            plain, pixels=self.pixels(self.image_size), boxes=BOXES, placeholders={MARKER: IMAGE, REGION_MARKER: REGION}
        )

    def pixels(self, side: int) -> ClipImages:
        """How a picture or a crop becomes a square of this side, pixels."""
        return ClipImages(side, self.image_aspect, resample="bilinear")


def _llama(language: Mapping[str, Any], **more: Any) -> GriffonConfig:
    return GriffonConfig(language=dict(language), template="llava_llama_2", **more)


GEMMA = GriffonConfig()
TINY = GriffonConfig(
    language={**GEMMA2_9B, **SMALL, "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 512},
    tower=ClipTower(
        hidden_size=96,
        intermediate_size=192,
        num_layers=3,
        num_heads=4,
        image_size=112,
        patch_size=14,
        projection_dim=64,
        name="tiny",
    ),
    region_tower=ClipTower(
        hidden_size=48,
        intermediate_size=96,
        num_layers=2,
        num_heads=4,
        image_size=56,
        patch_size=14,
        projection_dim=64,
        select_layer=-1,
        select_feature="cls",
        name="tiny-region",
    ),
    tokenizer="tiny-gemma2",
    max_length=512,
)
"""Random weights, for --demo, tests and examples: a laptop trains it in minutes."""

VARIANTS: Mapping[str, GriffonConfig] = {
    "g-gemma2-9b": GEMMA,
    "g-gemma2-27b": GEMMA.replace(language=dict(GEMMA2_27B), tokenizer="google/gemma-2-27b-it"),
    "g-llama2-7b": _llama(LLAMA2_7B, tokenizer="meta-llama/Llama-2-7b-hf"),
    "v2-llama2-13b": _llama(LLAMA2_13B, tokenizer="meta-llama/Llama-2-13b-hf"),
    "v1-llama2-13b": _llama(
        LLAMA2_13B,
        tokenizer="meta-llama/Llama-2-13b-chat-hf",
        tower=LOW,
        projector="linear",
        region_tower=None,
    ),
    "qwen25-7b": GriffonConfig(language=dict(QWEN25_7B), tokenizer="Qwen/Qwen2.5-7B-Instruct", template="qwen2"),
    "tiny": TINY,
    "tiny-llama2": replace(TINY, language={**LLAMA2_7B, **SMALL}, tokenizer="tiny-llama2", template="llava_llama_2"),
    "tiny-qwen25": replace(TINY, language={**QWEN25_7B, **SMALL}, tokenizer="tiny-qwen25", template="qwen2"),
}


def config_of(stage: Stage, variant: str) -> GriffonConfig:
    """The configuration of a stage: the variant's with the recipe's `model` entries and longest sequence.

    Raises:
        RecipeError: an entry does not exist.
    """
    changes = dict(stage.model)
    if stage.max_length is not None:
        changes.setdefault("max_length", stage.max_length)
    return VARIANTS[variant].replace(**changes)
