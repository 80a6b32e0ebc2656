"""Every size and constant of GLEE's architecture, for each published size and for laptops.

Numbers are those of `projects/GLEE/configs` and `projects/GLEE/glee/config.py` of FoundationVision/GLEE (6f5a19d3);
what a training stage decides (text architecture, visual prompts) is replaced by the stage's `model` entries.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from mmcore.contract.entry import check_entries
from mmcore.errors import RecipeError

TextArchitecture = Literal["frozen", "teacher", "unfrozen"]
Backbone = Literal["resnet", "swin", "eva"]
DenoisingLosses = Literal["standard", "seg", "no"]

LOSS_WEIGHTS: Mapping[str, float] = {
    "loss_ce": 4.0,
    "loss_conf": 4.0,
    "loss_bbox": 5.0,
    "loss_giou": 2.0,
    "loss_mask": 5.0,
    "loss_dice": 5.0,
    "dist_loss": 4.0,
    "track_loss": 2.0,
}
MATCH_COSTS: Mapping[str, float] = {"label": 4.0, "box": 5.0, "giou": 2.0, "mask": 5.0, "dice": 5.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class GleeConfig:
    """Sizes of one GLEE model; the defaults are GLEE Lite (ResNet-50) in stages 2 and 3."""

    backbone: Backbone = "resnet"
    """Image encoder: ResNet-50 (Lite), Swin-L (Plus) or EVA02-L with a feature pyramid (Pro)."""
    resnet_depths: tuple[int, int, int, int] = (3, 4, 6, 3)
    """Bottleneck blocks per stage."""
    resnet_stem: int = 64
    """Channels after the first convolution."""
    resnet_width: int = 64
    """Channels inside the bottlenecks of the first stage; doubles with each stage."""
    resnet_out: int = 256
    """Channels after the first stage; doubles with each stage."""
    resnet_groups: int = 1
    """Groups of the 3x3 convolutions, among which `resnet_width` is divided."""
    resnet_stride_in_1x1: bool = False
    """Whether bottlenecks that halve the map do so in their first convolution instead of the 3x3 one."""

    swin_width: int = 192
    """Channels of the first stage; doubles with each stage."""
    swin_depths: tuple[int, int, int, int] = (2, 2, 18, 2)
    """Blocks per stage."""
    swin_heads: tuple[int, int, int, int] = (6, 12, 24, 48)
    swin_window: int = 12
    """Side of an attention window, tokens."""
    swin_mlp_ratio: float = 4.0
    """Channels inside the MLP as a multiple of those outside, rounded down."""
    swin_qkv_bias: bool = True
    swin_qk_scale: float | None = None
    """What inner products of queries and keys are multiplied with; None is one over the root of a head's channels."""
    swin_patch_norm: bool = True
    """Whether patches are normed before the first block."""
    swin_drop_path: float = 0.3
    """Probability that a sample skips a branch of the last block while training; grows from 0 at the first."""

    eva_width: int = 1024
    """Channels of a token."""
    eva_depth: int = 24
    """Transformer blocks."""
    eva_heads: int = 16
    eva_mlp_ratio: float = 4 * 2 / 3
    """Channels inside the gated MLP as a multiple of those outside, rounded down."""
    eva_patch: int = 16
    """Side of a patch, pixels."""
    eva_window: int = 16
    """Side of an attention window, tokens."""
    eva_window_blocks: tuple[int, ...] = tuple(i for i in range(24) if i % 3 != 2)
    """Blocks that attend within windows; the others see the whole map."""
    eva_image_size: int = 1536
    """Side of the square image whose rotary positions are tabled, pixels; more patches than it has are refused."""
    eva_drop_path: float = 0.3
    """Probability that a sample skips a branch of the last block while training; grows from 0 at the first."""

    text: TextArchitecture = "teacher"
    """Frozen: CLIP as published, no gradient. Teacher: CLIP is tuned and drawn towards a frozen copy of itself.
    Unfrozen: it is tuned, and nothing holds it."""
    text_vocabulary: int = 49408
    """CLIP's byte-pair vocabulary."""
    text_positions: int = 77
    """Longest text, tokens."""
    text_dim: int = 512
    text_ffn: int = 2048
    text_layers: int = 12
    text_heads: int = 8
    text_activation: str = "quick_gelu"
    """Of CLIP's MLPs, as transformers names it."""

    hidden_dim: int = 256
    """Channels of pixels, queries and projected text."""
    num_levels: int = 4
    """Feature levels of the pixel decoder: three from the backbone and one half the size of the last."""
    encoder_heads: int = 8
    """Heads of the pixel decoder's deformable attention."""
    encoder_points: int = 4
    """Sampling points per head and level in the pixel decoder."""
    fusion_dim: int = 2048
    """Channels of the attention between pixels and text."""
    early_fusion: bool = True
    """Whether pixels look at class names before the pixel decoder; at expressions and visual prompts they always do."""
    fusion_heads: int = 8
    fusion_dropout: float = 0.1
    """Dropout on the attention probabilities of the fusion."""
    encoder_layers: int = 6
    encoder_ffn: int = 2048
    encoder_dropout: float = 0.0
    """Dropout in the pixel decoder's layers; the query decoder's have none in the published code."""
    mask_dim: int = 256
    """Channels of mask features and mask embeddings."""

    num_queries: int = 300
    decoder_layers: int = 9
    decoder_heads: int = 8
    """Heads of the query decoder's layers; the published code keeps 8 here whatever its configuration says."""
    decoder_points: int = 4
    """Sampling points per head and level in the query decoder."""
    triton: bool = True
    """Whether deformable attention runs as a Triton kernel where it can: on GPUs, with Triton installed."""
    decoder_ffn: int = 2048
    decoder_input_proj: bool = False
    """Whether each level is projected once more before the query decoder reads it."""
    two_stage: bool = True
    """Whether the best pixels become queries; otherwise contents and boxes of the queries are learned."""
    learned_content: bool = False
    """Whether only the boxes of the best pixels become queries, with learned contents."""
    initial_prediction: bool = True
    """Whether queries predict before the first layer, too, with losses of their own."""
    denoising: DenoisingLosses = "standard"
    """What denoising queries learn: classes and boxes, masks as well (seg), or nothing, for there are none."""
    denoising_queries: int = 100
    """Upper bound on denoising queries per image; an image with more objects than this switches denoising off."""
    denoising_noise: float = 0.4
    """Box noise as a share of the box; labels are replaced with half this probability."""

    visual_prompt: bool = True
    """Whether the model can be shown a region instead of told a name (stages 2 and 3)."""
    prompt_points: int = 512
    """Most pixels of a visual prompt that are sampled per feature level."""
    prompt_crop: int = 256
    """Side of the square crop around a visual prompt, pixels."""

    mask_points: int = 12544
    """Points at which mask losses and costs are evaluated (112 x 112)."""
    oversample_ratio: float = 3.0
    """Candidates per point, from which the uncertain ones are taken."""
    importance_ratio: float = 0.75
    """Share of the points taken for their uncertainty; the rest is uniform."""
    loss_weights: Mapping[str, float] = field(default_factory=lambda: dict(LOSS_WEIGHTS))
    """Weight of each loss by its name without the layer suffix."""
    match_costs: Mapping[str, float] = field(default_factory=lambda: dict(MATCH_COSTS))
    """Factor of each part of the matching cost: label, box, giou, mask and dice."""
    deep_supervision: bool = True
    """Whether layers between the proposals and the last one have losses."""
    box_losses: bool = True
    """Whether matched queries have box losses; denoising ones always do."""

    image_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """RGB, of 0 to 255."""
    image_std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    detections: int = 100
    """Boxes kept per image; `long_detections` for vocabularies of at least 300 names."""
    long_detections: int = 300

    tracks: int = 30
    """Pairs of track and class kept per video."""
    track_clips: int | None = None
    """Clips of a batch that have a track loss, the first ones; None is all. The published code takes as many as its
    last source's batch size, 2 by default, whatever it gets."""
    tao_tracks: int = 50
    """Tracks kept per video by TAO's protocol."""
    padded_video_boxes: bool = False
    """Whether boxes in videos are fractions of the padded frame taken as fractions of the frame itself, as the
    published code takes them: too small where there is padding, but what its numbers were made with."""
    video_window: int = 10
    """Frames of a video that go through the model at a time; changes memory and nothing else."""

    published_init: bool = True
    """Initialise text projections uniformly in [0, 1) as published, which suits fine-tuning from MaskDINO. False
    scales them so that class logits start near zero, which trains faster from random weights."""

    def replace(self, **changes: Any) -> "GleeConfig":
        """A copy with some entries changed.

        Raises:
            RecipeError: an entry does not exist, with the nearest one, or is of another type.
        """
        check_entries(type(self), changes, "GLEE has no model setting", "model")
        return replace(self, **changes)

    def __post_init__(self) -> None:
        if self.backbone not in get_args(Backbone):
            raise RecipeError(f"unknown backbone {self.backbone!r}", where="model.backbone", known=get_args(Backbone))
        for entry, kind in (("text", TextArchitecture), ("denoising", DenoisingLosses)):
            if getattr(self, entry) not in get_args(kind):
                raise RecipeError(
                    f"{entry} is {getattr(self, entry)!r}", where=f"model.{entry}", known=", ".join(get_args(kind))
                )
        if set(self.match_costs) != set(MATCH_COSTS):
            raise RecipeError(
                f"match_costs has {', '.join(self.match_costs)}",
                where="model.match_costs",
                known=", ".join(MATCH_COSTS),
            )
        for part, whole in (
            ("encoder_heads", "hidden_dim"),
            ("decoder_heads", "hidden_dim"),
            ("fusion_heads", "fusion_dim"),
            ("text_heads", "text_dim"),
            ("eva_heads", "eva_width"),
            ("eva_patch", "eva_image_size"),
            ("resnet_groups", "resnet_width"),
        ):
            if getattr(self, whole) % getattr(self, part):
                raise RecipeError(f"{whole} {getattr(self, whole)} is not a multiple of {part} {getattr(self, part)}")
        if self.hidden_dim % 4:
            raise RecipeError(f"hidden_dim {self.hidden_dim} is not a multiple of 4", do="sine positions need it")

        if self.backbone == "eva" and self.num_levels != 4:
            raise RecipeError(
                f"num_levels is {self.num_levels}; EVA02's feature pyramid has 4", where="model.num_levels"
            )

    @property
    def feature_channels(self) -> tuple[int, int, int, int]:
        """Channels of a convolutional or Swin backbone's outputs at strides 4, 8, 16 and 32."""
        first = self.resnet_out if self.backbone == "resnet" else self.swin_width
        return first, 2 * first, 4 * first, 8 * first


LITE = GleeConfig()
PLUS = GleeConfig(backbone="swin")
PRO = GleeConfig(backbone="eva")

TINY = GleeConfig(
    resnet_depths=(1, 1, 1, 1),
    resnet_stem=32,
    resnet_width=16,
    resnet_out=64,
    text_dim=64,
    text_ffn=128,
    text_layers=2,
    text_heads=4,
    hidden_dim=64,
    encoder_heads=4,
    decoder_heads=4,
    fusion_dim=128,
    fusion_heads=4,
    encoder_layers=2,
    encoder_ffn=128,
    mask_dim=64,
    num_queries=50,
    decoder_layers=3,
    decoder_ffn=128,
    denoising_queries=30,
    mask_points=1024,
    prompt_points=64,
    prompt_crop=64,
    published_init=False,
)
"""Random weights, for --demo, tests and examples: a laptop trains it in minutes."""

VARIANTS: Mapping[str, GleeConfig] = {"lite": LITE, "plus": PLUS, "pro": PRO, "tiny": TINY}
