"""Every size and constant of GLaMM's architecture, for the published size and for laptops.

Numbers are those of mbzuai-oryx/groundingLMM (`model/`, `train.py`) and of the configurations of the published
checkpoints. What a training stage decides is replaced by the stage's `model` entries.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from mmcore.contract.recipe import Stage
from mmcore.errors import RecipeError
from mmcore.language.llava.config import LlavaConfig, check_choices
from mmcore.language.processor import Processor
from mmcore.language.sizes import LLAMA2_7B
from mmcore.language.sizes import TINY as SMALL
from mmcore.vision.clip_vit import ClipTower
from mmcore.vision.sam.config import SamConfig

from mmcore_glamm.batch import GlammCollator, collator
from mmcore_glamm.region_encoder import RegionConfig
from mmcore_glamm.tokens import IMAGE_TEXT

HUB = "MBZUAI/GLaMM-GranD-Pretrained"
RANDOM = "random"
SAM_FILE = "hf://ybelkada/segment-anything/checkpoints/sam_vit_h_4b8939.pth"
"""SAM's published ViT-H; its last part is looked up in the folder `weights` of the data root first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """What the released code does otherwise than one would, for comparisons with its numbers."""

    cut_masks: bool = False
    """Whether a conversation may lose masks at its end: those whose `[SEG]` the longest length cuts, and those beyond
    the number of its `[SEG]`. The released code drops them in silence; here such a sample is a bad one."""
    rounded_boxes: bool = False
    """Round boxes to half and then to bfloat16 precision where captions are evaluated, as the released scripts do."""

    def __post_init__(self) -> None:
        check_choices(self, "model.published.")


@dataclass(frozen=True, kw_only=True, slots=True)
class GlammConfig(LlavaConfig):
    """Sizes and switches of one GLaMM model; the defaults are the published 7B."""

    FAMILY: ClassVar[str] = "GLaMM"
    PARTS: ClassVar[tuple[str, ...]] = ("tower", "sam", "region", "published")

    language: Mapping[str, Any] = field(default_factory=lambda: {**LLAMA2_7B, "vocab_size": 32007})
    tokenizer: str = HUB
    template: str = "llava_v1"
    max_length: int = 1536
    sam: SamConfig = field(default_factory=SamConfig)
    region: RegionConfig = field(default_factory=RegionConfig)
    add_tokens: bool = False
    """Whether the tokens of boxes, masks and phrases are appended to a tokenizer that lacks them, as before the first
    stage; elsewhere such a tokenizer is the wrong one."""
    features: str = "auto"
    """Where SAM's maps of training pictures come from: the encoder `live`, a `cache` that must be there, the folder of
    one, or `auto`: a complete cache of this encoder and this data if there is one, else live."""
    feature_dtype: Literal["fp16", "fp32"] = "fp16"
    """Precision in which maps are cached: 2 MB or 4 MB a picture at the published size."""
    sam_weights: str = SAM_FILE
    """What fills a cache: a file of SAM's encoder below the data root or on the Hub, or `random` for tiny variants."""
    adapter_alpha: float = 16.0
    """Of the adapters in a published training checkpoint, which holds them apart and does not say it."""
    published: Published = field(default_factory=Published)

    def __post_init__(self) -> None:
        LlavaConfig.__post_init__(self)
        if not isinstance(self.tower, ClipTower):
            raise RecipeError("GLaMM reads several states of a CLIP ViT", where="model.tower")
        if (first := min(self.region_states)) < 0:
            raise RecipeError(
                f"the region encoder reads {self.region.num_levels} states, {self.region.step} apart, from {first}",
                where="model.tower.num_layers",
                do="more layers, or a smaller model.region.step",
            )
        if self.tower.hidden_size % self.region.groups or self.tower.hidden_size % 4:
            raise RecipeError(
                f"{self.tower.hidden_size} channels do not divide into {self.region.groups} groups",
                where="model.region.groups",
            )

    @property
    def region_states(self) -> tuple[int, ...]:
        """States of the tower that the region encoder reads, the one for its finest map first."""
        tower = self.tower
        assert isinstance(tower, ClipTower)
        last, step = tower.state(tower.select_layer), self.region.step
        return tuple(last - step * (self.region.num_levels - 1 - level) for level in range(self.region.num_levels))

    def processor(self, tokenizer: Any, max_length: int | None = None) -> Processor:
        """How text and pictures are read; an image's marker is written with its two tokens around it."""
        plain = super(GlammConfig, self).processor(tokenizer, max_length)
        return replace(plain, template=replace(plain.template, image=IMAGE_TEXT))

    def collator(self, processor: Processor, **layout: Any) -> GlammCollator:
        """What makes batches of samples; `layout` is its `padding_side` or `given`."""
        return collator(self, processor, **layout)


B7 = GlammConfig()
TINY = GlammConfig(
    language={
        **LLAMA2_7B,
        **SMALL,
        "num_hidden_layers": 3,
        "num_key_value_heads": 4,
        "max_position_embeddings": 512,
    },
    tower=ClipTower(
        hidden_size=64,
        intermediate_size=128,
        num_layers=5,
        num_heads=4,
        image_size=112,
        patch_size=14,
        projection_dim=64,
        name="tiny",
    ),
    sam=SamConfig(
        image_size=256,
        hidden_size=64,
        num_layers=2,
        num_heads=4,
        mlp_ratio=2.0,
        window_size=7,
        global_layers=(1,),
        out_channels=64,
        decoder_mlp=128,
        decoder_heads=4,
        mask_prompt_channels=8,
        iou_hidden=64,
    ),
    region=RegionConfig(step=1, groups=8, inner=64, place_hidden=32, roi_size=7, box_side=112),
    tokenizer="tiny",
    max_length=512,
    add_tokens=True,
    sam_weights=RANDOM,
)
"""Random weights, for --demo, tests and examples: a laptop trains it in minutes. Its boxes lie where they are."""

VARIANTS: Mapping[str, GlammConfig] = {"7b": B7, "tiny": TINY}


def config_of(stage: Stage, variant: str) -> GlammConfig:
    """The configuration of a stage: the variant's with the recipe's `model` entries.

    Raises:
        RecipeError: an entry does not exist.
    """
    length = {} if stage.max_length is None else {"max_length": stage.max_length}
    return VARIANTS[variant].replace(**{**length, **stage.model})
