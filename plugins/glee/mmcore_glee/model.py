"""GLEE, as the paper's figure draws it: image and text encoders, early fusion, pixel decoder, query decoder, heads."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from mmcore.contract.model import Model
from mmcore.contract.recipe import Stage
from mmcore.contract.values import Loss, Losses, Prediction
from mmcore.contract.values import VisualPrompt as VisualPromptOfUser
from mmcore.errors import RecipeError, ShapeError, UsageError, WeightsError, suggest
from mmcore.weights.files import read_tensors
from mmcore.weights.fill import fill
from mmcore.weights.maps import LoadReport, WeightMap
from mmcore.weights.wrapped import without_level
from torch import Tensor, nn

from mmcore_glee import weights
from mmcore_glee.backbone import Bottleneck, ResNet
from mmcore_glee.batch import GleeBatch
from mmcore_glee.config import LOSS_WEIGHTS, VARIANTS, GleeConfig
from mmcore_glee.criterion import build_criterion
from mmcore_glee.data.tasks import TASKS
from mmcore_glee.denoising import TABLE_OF_TASK, TABLES, make_denoising
from mmcore_glee.eva import Eva, EvaBlock
from mmcore_glee.fusion import Fusion
from mmcore_glee.outputs import DecoderOutputs, Draws
from mmcore_glee.pixel_decoder import EncoderLayer, PixelDecoder
from mmcore_glee.predict import predictions
from mmcore_glee.prompt import DECODER_LEVELS, PUBLISHED_LEVELS, VisualPrompt, fill_boxes
from mmcore_glee.query_decoder import DecoderLayer, PromptTokens, QueryDecoder
from mmcore_glee.swin import Block, Swin
from mmcore_glee.text_encoder import (
    BEGIN,
    END,
    PhraseMemo,
    TextFeatures,
    build_clip,
    encode_text,
    forget_phrases,
    hidden_states,
    is_frozen,
)
from mmcore_glee.track_loss import NEGATIVES, counted_share, track_loss
from mmcore_glee.tracking import TAO_TASKS, Tracks, associate, tao_predictions, video_predictions, videos_of, windows_of

FORMATS = ("upstream",)
BACKBONES = {"resnet": ResNet, "swin": Swin, "eva": Eva}


MASK_BRANCH = (
    *(f"pixel_decoder.{name}" for name in ("adapter", "adapter_norm", "smooth", "smooth_norm", "mask_features")),
    "query_decoder.mask_mlp",
)
"""What only masks need: the finest map and the embedding of queries that multiplies it."""


def build(stage: Stage, variant: str) -> "Glee":
    """The model of one stage with fresh weights.

    Raises:
        RecipeError: the variant or one of the stage's model settings does not exist.
    """
    if variant not in VARIANTS:
        raise RecipeError(
            f"GLEE has no variant {variant!r}", known=VARIANTS, do=suggest(variant, VARIANTS, "choose one of these")
        )
    config = VARIANTS[variant].replace(**stage.model)
    model = Glee(config.replace(loss_weights={**config.loss_weights, **stage.loss_weights}))
    model.transform = stage.data.transform
    return model


class Glee(Model):
    """Detector and segmenter whose classes are texts.

    Args:
        config: sizes, and what the stage decides.
    """

    image_mean: Tensor
    image_std: Tensor

    def __init__(self, config: GleeConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = BACKBONES[config.backbone](config)
        self.text_encoder = build_clip(config)
        self.text_encoder_teacher = copy.deepcopy(self.text_encoder) if config.text == "teacher" else None
        self.text_projection = nn.Parameter(torch.rand(config.text_dim, config.hidden_dim))
        self.fusion = Fusion(config.hidden_dim, config.fusion_dim, config.fusion_heads, config.fusion_dropout)
        self.pixel_decoder = PixelDecoder(config, self.backbone.channels)
        self.query_decoder = QueryDecoder(config)
        self.prompt = VisualPrompt(config, self.backbone.channels)
        self.criterion = build_criterion(config)
        self.register_buffer("image_mean", torch.tensor(config.image_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("image_std", torch.tensor(config.image_std).view(3, 1, 1), persistent=False)
        self.transform: Mapping[str, Any] = {}
        """The recipe's image pipeline, for `prepare`."""
        self._memo, self._teacher_memo = PhraseMemo(), PhraseMemo()
        self.register_load_state_dict_post_hook(forget_phrases)
        if not config.published_init:
            nn.init.normal_(self.text_projection, std=config.text_dim**-0.5)
            with torch.no_grad():
                words = hidden_states(self.text_encoder, _any_texts()) @ self.text_projection
            self.query_decoder.set_prior(words.mean((0, 1)))
        for clip in (self.text_encoder_teacher, self.text_encoder if config.text == "frozen" else None):
            if clip is not None:
                clip.requires_grad_(False).eval()

    def forward(self, batch: GleeBatch, draws: Draws | None = None) -> Losses:
        """Losses of one training micro-batch.

        Args:
            batch: one task's images, words and objects.
            draws: the random numbers; by default drawn from torch's generator.
        """
        draws = draws or Draws()
        outputs, text = self.run(batch, draws)
        losses = {**self.criterion(outputs, batch, draws), **self._track_loss(outputs, batch, draws)}
        return Losses({**losses, **self._text_loss(text, outputs.mask_features)})

    @torch.no_grad()
    def predict(self, batch: GleeBatch) -> list[Prediction]:
        """Boxes, masks, names and scores of each image, best first; of videos, tracks through their frames."""
        if batch.num_frames is None:
            return predictions(self.run(batch, Draws())[0], batch, self.config)
        made = tao_predictions if batch.task in TAO_TASKS else video_predictions
        return [one for video in videos_of(batch) for one in made(self.track(video), video, self.config)]

    @torch.no_grad()
    def track(self, batch: GleeBatch) -> Tracks:
        """Follow everything through the frames of one video, a window of frames at a time.

        Raises:
            ShapeError: the batch holds several videos.
        """
        if batch.num_frames is None or len(batch.num_frames) != 1:
            raise ShapeError("tracks are followed through one video at a time", known=batch.num_frames)
        windows = windows_of(batch, self.config.video_window)
        return associate(self.run(window, Draws())[0] for window in windows)

    def run(self, batch: GleeBatch, draws: Draws) -> tuple[DecoderOutputs, TextFeatures]:
        """The figure, from left to right."""
        images = self.normalise(batch)
        features = self.backbone(images)
        text = self.encode_text(batch)
        # Names are left out of the fusion where the recipe says so; expressions never are.
        fusion_tokens = text.fusion if self.config.early_fusion or batch.expressions else text.fusion[:, :0]
        if batch.prompt_masks is not None:
            shown = images if batch.num_frames is None else images[batch.first_frames]
            template = self.prompt.template(shown, batch.prompt_masks, batch.prompt_mode, self.backbone)
            if batch.num_frames is not None:  # as published, before the words here and behind them for images
                fusion_tokens = torch.cat([template[batch.clip_of_frame], fusion_tokens], dim=1)
            else:
                fusion_tokens = torch.cat([fusion_tokens, template], dim=1)
        # As published, the decoders run in full precision while backbone, text and heads may not.
        with torch.autocast(images.device.type, enabled=False):
            precise = self.pixel_decoder.level_embed.dtype
            pixels, shapes = self.pixel_decoder.project([feature.to(precise) for feature in features])
            if fusion_tokens.shape[1]:
                pixels = self.fusion(pixels, fusion_tokens.to(precise))
            pixels, mask_features = self.pixel_decoder(pixels, shapes, features[0].to(precise))
            queries = self.query_decoder
            tokens = self._prompt_tokens(batch, text, pixels, shapes, draws)
            noised = None
            if self.training:
                noised = make_denoising(batch, queries.label_embed, self.config, self.config.num_queries, draws)
            per_image = batch.expressions is not None
            classes = text.classes.to(precise)
            outputs = queries(pixels, shapes, mask_features, classes, tokens, noised, per_image=per_image)
        return outputs, text

    def prepare(
        self,
        images: Sequence[np.ndarray],
        *,
        names: Sequence[str] | None = None,
        prompt: str | None = None,
        visual: VisualPromptOfUser | None = None,
    ) -> GleeBatch:
        """Any images as a batch for `predict`.

        Args:
            images: (height, width, 3) uint8 RGB each.
            names: what to look for; None is COCO's 80 names.
            prompt: an expression that refers to one object, instead of names.
            visual: where the one object is, in pixels of each image; without names it is an "object".

        Raises:
            UsageError: the model has no visual prompts.
        """
        from mmcore_glee.data.question import ask

        return ask(images, names, prompt, self.transform, self._prompted(visual))

    def prepare_video(
        self,
        frames: Sequence[np.ndarray],
        *,
        names: Sequence[str] | None = None,
        prompt: str | None = None,
        visual: VisualPromptOfUser | None = None,
    ) -> GleeBatch:
        """The frames of one video as a batch for `predict`; the arguments are those of `prepare`, a visual prompt lies
        in the first frame."""
        from mmcore_glee.data.question import ask_video

        return ask_video(frames, names, prompt, self.transform, self._prompted(visual))

    def _prompted(self, visual: VisualPromptOfUser | None) -> VisualPromptOfUser | None:
        if visual is not None and not self.config.visual_prompt:
            raise UsageError(
                "this model was trained without visual prompts",
                where="model.visual_prompt",
                do="use --names or --prompt, or a model of stage 2, 3 or finetune",
            )
        return visual

    def normalise(self, batch: GleeBatch) -> Float[Tensor, "batch 3 height width"]:
        """Images with mean 0 and deviation 1; padding is exactly 0."""
        images = (batch.images - self.image_mean) / self.image_std
        height, width = images.shape[-2:]
        if any(size != (height, width) for size in batch.image_sizes):
            sizes = torch.tensor(batch.image_sizes).to(images.device, non_blocking=True)
            rows = torch.arange(height, device=images.device) < sizes[:, :1]
            columns = torch.arange(width, device=images.device) < sizes[:, 1:]
            images = images * (rows[:, :, None] & columns[:, None])[:, None]
        return images

    def encode_text(self, batch: GleeBatch) -> TextFeatures:
        """Class embeddings and tokens of the batch's words."""
        teacher = self.text_encoder_teacher if self.training else None
        return encode_text(self.text_encoder, teacher, self.text_projection, batch, self._memo, self._teacher_memo)

    def _prompt_tokens(
        self, batch: GleeBatch, text: TextFeatures, pixels: Tensor, shapes: Any, draws: Draws
    ) -> PromptTokens | None:
        """What joins the queries: samples of a visual prompt, else the words of an expression."""
        if batch.prompt_masks is not None:
            masks = batch.prompt_masks
            if self.training and batch.prompt_mode in ("point", "box"):
                masks = fill_boxes(masks)
            if batch.num_frames is None:
                return self.prompt(pixels, shapes, masks, draws)
            return self.prompt(pixels[batch.first_frames], shapes, masks, draws).repeated(batch.clip_of_frame)
        if text.prompts is None:
            return None
        assert text.prompts_valid is not None
        return PromptTokens((text.prompts.to(pixels.dtype),), (text.prompts_valid,))

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """The factor of each loss, whatever layer it is of."""
        return {name: self.config.loss_weights[name] for name in LOSS_WEIGHTS}

    def _text_loss(self, text: TextFeatures, like: Tensor) -> dict[str, Loss]:
        weight = self.config.loss_weights["dist_loss"]
        distance = like.new_zeros(()) if text.distance is None else text.distance
        return {"dist_loss": Loss(weight * distance, "text_tokens")}

    def _track_loss(self, outputs: DecoderOutputs, batch: GleeBatch, draws: Draws) -> dict[str, Loss]:
        """Contrast between frames; for clips of several only, and as published not with a visual prompt."""
        if batch.num_frames is None or max(batch.num_frames) < 2 or batch.prompt_masks is not None:
            return {"track_loss": Loss(outputs.mask_features.new_zeros(()), "objects")}
        embed = outputs.track_embed
        assert embed is not None
        # The published code matches anew for this loss, with other points than the last layer's own losses.
        final = replace(outputs, sets={"track": outputs.sets["final"]})
        matches = self.criterion.match(final, batch, draws)
        frames = sum(batch.num_frames[: self.config.track_clips])
        negatives = draws.track_negatives(frames, embed.shape[1], NEGATIVES, embed.device)
        weight = self.config.loss_weights["track_loss"] * counted_share(batch, self.config.track_clips)
        return {"track_loss": Loss(weight * track_loss(embed, matches, negatives, batch), "tracked_objects")}

    def train(self, mode: bool = True) -> "Glee":
        """Training or evaluation; frozen text encoders always evaluate, so that their features can be kept."""
        if mode != self.training and not is_frozen(self.text_encoder):
            # Sharded engines may exchange weights in place, which the memo cannot see.
            self._memo.clear()
        super().train(mode)
        for clip in (self.text_encoder_teacher, self.text_encoder if self.config.text == "frozen" else None):
            if clip is not None:
                clip.eval()
        return self

    def published(self, format: str = "upstream") -> WeightMap:
        """The map between published GLEE names and this model's.

        Raises:
            WeightsError: the format is not known.
        """
        if format not in FORMATS:
            raise WeightsError(
                f"GLEE has no weight format {format!r}",
                known=FORMATS,
                do=suggest(format, FORMATS, "choose one of these"),
            )
        return weights.upstream(self.config, self.state_dict())

    def initialise(self, path: str | Path) -> LoadReport:
        """Fill from a published GLEE, MaskDINO, CLIP, Swin or EVA02 file, told apart by its names.

        A GLEE file must fit; what stage 2 adds to stage 1 stays new, and a teacher that is new becomes a copy of the
        text encoder. MaskDINO fills what fits. CLIP fills the text encoder and its teacher, Swin and
        EVA02 the backbone.

        Raises:
            MissingDataError: there is no such file.
            WeightsError: it is no checkpoint, or fills nothing.
        """
        tensors = without_level(read_tensors(path), "model.")
        own = self.state_dict()
        kind = weights.kind(tensors)
        if kind == "clip":
            state, report = self._from_clip(tensors, own)
        elif kind == "upstream":
            state, report = self.published().to_ours(tensors, own)
        elif kind in weights.BACKBONES:
            state, report = weights.BACKBONES[kind]().to_ours(weights.of_model(tensors), own)
        else:
            if not weights.is_maskdino(tensors):
                raise WeightsError(
                    "nothing in this file fits GLEE: it is neither whole nor a part that is known",
                    where=path,
                    known=f"{len(tensors)} tensors, such as {next(iter(tensors))}",
                    do="give a whole GLEE file, or MaskDINO's, CLIP's, Swin's or EVA02's",
                )
            state, report = weights.maskdino(self.config).to_ours(weights.without_head(tensors), own)
            report.needed = weights.needed(tensors, report.new)
        fill(self, state)
        self._copy_text_to_teacher(report)
        return report

    def _from_clip(
        self, tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], LoadReport]:
        state: dict[str, Tensor] = {}
        for part in ("text_encoder", "text_encoder_teacher"):
            if getattr(self, part) is not None:
                state |= weights.clip(part, own).to_ours(tensors, own)[0]
        return state, LoadReport(filled=list(state), new=[name for name in own if name not in state])

    def _copy_text_to_teacher(self, report: LoadReport) -> None:
        """A stage-1 checkpoint has no teacher; its frozen text encoder is what the teacher is."""
        teacher = self.text_encoder_teacher
        filled = any(name.startswith("text_encoder.") for name in report.filled)
        missing = any(name.startswith("text_encoder_teacher.") for name in report.new)
        if teacher is None or not filled or not missing:
            return
        fill(teacher, self.text_encoder.state_dict())
        report.filled += [name for name in report.new if name.startswith("text_encoder_teacher.")]
        report.new = [name for name in report.new if not name.startswith("text_encoder_teacher.")]

    def idle_parameters(self, stage: Stage) -> tuple[str, ...]:
        """Parameters that no loss of these sources reaches; they are there because published files have them.

        Label embeddings of tasks without a source; the half of the fusion that would update the text, for the
        published model goes on with the text as it was; prompt embeddings of levels the decoder does not read; and the
        branch of the masks where every source has boxes only.
        """
        tasks = [source.options.get("task") for source in stage.data.sources.values()]
        used = {TABLE_OF_TASK[task] for task in tasks if task in TABLE_OF_TASK}
        unused_text = ("fusion.text_scale", "fusion.attention.text_out", "fusion.attention.visual_value")
        spoken = self.config.visual_prompt or any(TASKS[task].words == "expression" for task in tasks if task in TASKS)
        unfused = () if self.config.early_fusion or spoken else ("fusion",)
        unprompted = () if self.config.visual_prompt else ("prompt", "query_decoder.confidence_mlp")
        masked = any(task not in TASKS or TASKS[task].has_masks for task in tasks)
        unread = (f"prompt.embed.{level}" for level in range(DECODER_LEVELS, PUBLISHED_LEVELS))
        return (
            *unused_text,
            *unfused,
            *unprompted,
            *unread,
            *(() if masked else MASK_BRANCH),
            *(f"query_decoder.label_embed.{name}" for name in TABLES if name not in used),
        )

    def checkpoint_blocks(self) -> Sequence[nn.Module]:
        """Blocks of the image encoder, layers of both decoders and of a text encoder that is trained."""
        kinds = (Bottleneck, Block, EvaBlock, EncoderLayer, DecoderLayer)
        words = [] if is_frozen(self.text_encoder) else self.text_encoder.encoder.layers
        return [*(part for part in self.modules() if isinstance(part, kinds)), *words]

    def zero3_leaves(self) -> Sequence[nn.Module]:
        """The whole model as one unit: which modules run depends on the task of each process's batch."""
        return (self,)


def _any_texts(texts: int = 64) -> Tensor:
    """Token ids of random two-token phrases, always the same ones and without torch's own generator."""
    words = torch.randint(BEGIN, (texts, 2), generator=torch.Generator().manual_seed(0))
    return torch.cat([words.new_full((texts, 1), BEGIN), words, words.new_full((texts, 1), END)], dim=1)
