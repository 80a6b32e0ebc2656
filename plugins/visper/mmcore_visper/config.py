"""Every size and constant of VisPer-LM's architecture, for each published size and for laptops.

Numbers are those of SHI-Labs/VisPer-LM (f7baf3b): `ola_vlm/train`, `scripts/train/*.sh` and the configurations of the
published checkpoints. What a training stage decides (predictors, probes, how pictures are cut) is replaced by the
stage's `model` entries. `published_config` translates the `config.json` of published folders.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

from mmcore.contract.recipe import Stage
from mmcore.errors import RecipeError
from mmcore.language.llava.config import LlavaConfig, check_choices, replace_part
from mmcore.language.sizes import LLAMA3_8B, PHI3_MINI
from mmcore.vision.clip_vit import ClipTower
from mmcore.vision.convnext import ConvNextTower

Task = Literal["gen", "depth", "seg"]
TASKS: tuple[Task, ...] = ("gen", "depth", "seg")


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskConfig:
    """One embedding objective: which hidden states predict which teacher's features, through which resampler."""

    name: Task
    layers: tuple[int, ...] = ()
    """Hidden states that are read, 1 for the output of the first layer; no use for probes, which read every layer."""
    weight: float = 0.5
    """Of this task in the whole loss."""
    num_tokens: int = 576
    """Predicted rows: 24 x 24 for depth and seg, 1 for gen."""
    output_dim: int = 1024
    """Channels of the teacher's features."""
    depth: int = 1
    """Resampler blocks."""
    dim_head: int = 32
    num_heads: int = 4
    ff_mult: int = 1
    """Width of the feed-forward part, in multiples of the resampler's."""

    @property
    def grid(self) -> int:
        """Rows along one side of a square map."""
        return round(self.num_tokens**0.5)

    @property
    def target_shape(self) -> tuple[int, ...]:
        """Of one image's target: gen (rows, channels), depth (rows, channels), seg (channels, side, side)."""
        if self.name == "seg":
            return self.output_dim, self.grid, self.grid
        return self.num_tokens, self.output_dim


@dataclass(frozen=True, kw_only=True, slots=True)
class DepthDecoderConfig:
    """The frozen DPT decoder that turns depth features into a picture; Depth-Anything-V2-Large. No loss reads it."""

    in_channels: int = 1024
    features: int = 256
    out_channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)


GEN = TaskConfig(name="gen", layers=(12, 20), num_tokens=1, output_dim=1024)
DEPTH = TaskConfig(name="depth", layers=(18, 20), output_dim=1024)
SEG = TaskConfig(name="seg", layers=(10, 18), output_dim=1536)
"""scripts/train/pretrain.sh: `d18-20_s10-18_g12-20`, weights 0.5; the argument default of depth would be 8-20."""

LLAMA3: Mapping[str, Any] = {**LLAMA3_8B, "vocab_size": 128257, "pad_token_id": 128256}
"""With `<pad>`."""
PHI3 = PHI3_MINI
TEMPLATES: Mapping[str, str] = {"llama": "llava_llama_3", "phi3": "llava_phi_3"}
"""Conversation template by language model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """What the released code does otherwise than the paper means, or than we do; for comparisons with its numbers."""

    released_masks: bool = False
    """Zero every embedding loss as the released code does by accident."""
    outer_product_mask: bool = False
    """Average the contrastive loss over all samples before it is masked, as the released code does by accident, with
    predictions and targets for samples without an image too. The same where every sample has an image, as in every
    published recipe; it needs `normalise: process` and targets for every sample."""
    padding_keys: Literal["zero", "states", "masked"] = "zero"
    """What predictors see at padding: zero vectors (the published code with flash attention), whatever the layers left
    there (the published code with other attention), or nothing (clean: independent of the other samples)."""
    prompt_tokens: int | None = None
    """Tokens before the image that predictors count on; the published code has 38, 26 or 13. None reads the image's
    place off each sequence, which is the same for published prompts and right for all others."""
    probe_task_tokens: bool = True
    """Whether a probed model keeps its task tokens. The published probes were trained with them and evaluated
    without; False is what their evaluation did."""

    def __post_init__(self) -> None:
        check_choices(self, "model.published.")


@dataclass(frozen=True, kw_only=True, slots=True)
class VisperConfig(LlavaConfig):
    """Sizes and switches of one VisPer-LM model; the defaults are Llama3-8B with CLIP ViT-L and all three tasks."""

    FAMILY: ClassVar[str] = "VisPer-LM"
    PARTS: ClassVar[tuple[str, ...]] = ("tower", "depth_decoder", "published")
    NESTED: ClassVar[Mapping[str, type]] = {"tasks": Sequence}

    language: Mapping[str, Any] = field(default_factory=lambda: dict(LLAMA3))
    tokenizer: str = "meta-llama/Meta-Llama-3-8B-Instruct"
    template: str = "llava_llama_3"
    image_aspect: Literal["square", "pad", "squash"] = "square"
    """Published stage pt cuts the centre out, the others pad."""

    tasks: tuple[TaskConfig, ...] = (GEN, DEPTH, SEG)
    """In the order of their tokens after the image; empty for plain LLaVA."""
    num_task_tokens: int = 8
    """Tokens of each task after the image; 0 leaves them out and predictors learn their own queries."""
    task_token_format: Literal["expand_emb", "emb"] = "expand_emb"
    """What depth and seg insert: means over groups of their rows, or (old checkpoints) every row."""
    predictors: bool = True
    """Whether the embedding predictors are there (stage pt); later stages keep the task tokens only."""
    pass_text_to_aux: bool = True
    """Whether predictors see the text after the image."""
    use_intermediate_depth: bool = True
    """Whether depth has three MLPs behind its predictor, of which the first is supervised."""
    use_contrastive: bool = True
    contrastive_weight: float = 0.3
    contrast_pool: Literal["processes", "micro_batch"] = "processes"
    """Whose targets a prediction is told apart from: those of all processes at this moment, as published, so that the
    objective depends on the number of processes; or those of its own micro-batch, a pool of fixed size."""
    depth_decoder: DepthDecoderConfig | None = field(default_factory=DepthDecoderConfig)
    """For pictures of predicted depth; kept in checkpoints that have depth predictors."""

    probe: Task | None = None
    """Probe every layer's hidden state for this teacher's features; nothing else is trained."""
    published: Published = field(default_factory=Published)

    targets: str = "auto"
    """Where the targets of embedding losses come from: `live` teachers, a `cache` that must be there, the folder of
    one, or `auto`: a complete cache of these teachers and this data if there is one, else live teachers."""
    target_dtype: Literal["fp16", "fp32"] = "fp16"
    """Precision in which targets are cached; live ones are rounded to it too, so that both are the same."""
    teachers: Mapping[str, str] = field(default_factory=dict)
    """Task -> file or folder of its teacher, below the data root or absolute, or `random`; the published ones are
    looked up in the data root's folder `weights`."""
    teacher_precision: Literal["published", "fp32"] = "published"
    """In what teachers compute; the published run used bfloat16 for depth and seg and float16 for gen."""

    def replace(self, **changes: Any) -> Self:
        """A copy with some entries changed, see `LlavaConfig.replace`; tasks by name or as changes to those there are.

        Raises:
            RecipeError: an entry or a task does not exist; the nearest one is suggested.
        """
        if "tasks" in changes:
            changes["tasks"] = tuple(_task(task, self.tasks) for task in changes["tasks"])
        return super(VisperConfig, self).replace(**changes)  # slots: the bare form would mean the class before them

    def __post_init__(self) -> None:
        LlavaConfig.__post_init__(self)
        names = [task.name for task in self.tasks]
        if len(set(names)) != len(names):
            raise RecipeError(f"a task is named twice: {', '.join(names)}", where="model.tasks")
        layers = self.num_layers
        for task in self.tasks:
            if task.name not in TASKS:
                raise RecipeError(f"unknown task {task.name!r}", where="model.tasks", known=TASKS)
            if wrong := [layer for layer in task.layers if not 0 <= layer <= layers]:
                raise RecipeError(f"task {task.name} reads layer {wrong[0]}; there are {layers}", where="model.tasks")
            if task.name != "gen" and self.num_task_tokens and task.num_tokens % self.num_task_tokens:
                raise RecipeError(
                    f"{task.num_tokens} rows of {task.name} cannot be grouped into {self.num_task_tokens} task tokens",
                    where="model.num_task_tokens",
                )
            if task.name == "seg" and task.grid**2 != task.num_tokens:
                raise RecipeError(f"{task.num_tokens} rows of seg are no square map", where="model.tasks")
        if self.probe is not None and self.probe not in names:
            raise RecipeError(f"probe {self.probe!r} is none of the tasks", where="model.probe", known=names)

    @property
    def after_image(self) -> tuple[tuple[str, int], ...]:
        """The task tokens."""
        return self.task_tokens

    @property
    def task_tokens(self) -> tuple[tuple[str, int], ...]:
        """Task and rows that follow an image, in order."""
        if not self.num_task_tokens or (self.probe is not None and not self.published.probe_task_tokens):
            return ()
        return tuple((task.name, self._rows(task)) for task in self.tasks)

    @property
    def active_tasks(self) -> tuple[TaskConfig, ...]:
        """The tasks whose targets something is compared with."""
        if self.probe:
            return (self.task(self.probe),)
        return self.tasks if self.predictors else ()

    def task(self, name: str) -> TaskConfig:
        """One of the tasks."""
        return next(task for task in self.tasks if task.name == name)

    def _rows(self, task: TaskConfig) -> int:
        whole = self.task_token_format == "emb" and task.name != "gen"
        return task.num_tokens if whole else self.num_task_tokens


def _task(given: Any, known: Sequence[TaskConfig]) -> TaskConfig:
    """A task from its name, or from changes to the one of the same name; recipes hold plain data."""
    if isinstance(given, TaskConfig):
        return given
    entries = {"name": given} if isinstance(given, str) else dict(given)
    name = entries.pop("name", None)
    base = next((task for task in (*known, GEN, DEPTH, SEG) if task.name == name), None)
    if base is None:
        raise RecipeError(f"unknown task {name!r}", where="model.tasks", known=TASKS)
    return replace_part(f"task {name}", base, entries)


LLAMA3_VIT = VisperConfig()
LLAMA3_CONVNEXT = LLAMA3_VIT.replace(tower=ConvNextTower())
PHI3_VIT = VisperConfig(language=dict(PHI3), tokenizer="microsoft/Phi-3-mini-4k-instruct", template=TEMPLATES["phi3"])
PHI3_CONVNEXT = PHI3_VIT.replace(tower=ConvNextTower())
LLAVA15 = LLAMA3_VIT.replace(tasks=(), num_task_tokens=0, predictors=False, depth_decoder=None)

TINY = VisperConfig(
    language={
        **LLAMA3,
        "vocab_size": 1024,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "rope_theta": 10000.0,
        # About 128 ** -0.5: with the usual 0.02 attention starts out nearly uniform at this width, and the picture is
        # not looked at for some hundred steps.
        "initializer_range": 0.08,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    },
    tower=ClipTower(
        hidden_size=96,
        intermediate_size=192,
        num_layers=3,
        num_heads=4,
        image_size=96,
        patch_size=16,
        projection_dim=64,
        name="tiny",
    ),
    tokenizer="tiny",
    max_length=512,
    tasks=(
        TaskConfig(name="gen", layers=(2, 3), num_tokens=1, output_dim=32, dim_head=16),
        TaskConfig(name="depth", layers=(3, 4), num_tokens=64, output_dim=32, dim_head=16),
        TaskConfig(name="seg", layers=(1, 3), num_tokens=64, output_dim=48, dim_head=16),
    ),
    depth_decoder=DepthDecoderConfig(in_channels=32, features=16, out_channels=(16, 16, 32, 32)),
)
"""Random weights, for --demo, tests and examples: a laptop trains it in minutes."""

VARIANTS: Mapping[str, VisperConfig] = {
    "llama3-vit": LLAMA3_VIT,
    "llama3-convnext": LLAMA3_CONVNEXT,
    "phi3-vit": PHI3_VIT,
    "phi3-convnext": PHI3_CONVNEXT,
    "llava15-llama3-vit": LLAVA15,
    "tiny": TINY,
}


def config_of(stage: Stage, variant: str) -> VisperConfig:
    """The configuration of a stage: the variant's with the recipe's `model` entries.

    Raises:
        RecipeError: an entry does not exist.
    """
    return VARIANTS[variant].replace(**stage.model)
