"""VisPer-LM: pictures and words in, answers out; hidden states on the way also predict what vision teachers see.

    image -> tower -> projector -> +----------------+
                                   | spliced tokens | -> language model -> text loss, answers
    words, task tokens ----------> +----------------+          |
                                                          hidden states -> predictors -> embedding losses

LLaVA-1.5 is the same without task tokens and predictors. Samples without an image cost the vision parts nothing, but
where several processes train together every process enters every part, with no rows if need be: sharded engines
gather weights call by call.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from jaxtyping import Float
from mmcore import Stage
from mmcore.contract.model import Model
from mmcore.contract.values import Loss, Losses, Prediction
from mmcore.errors import ShapeError, WeightsError, suggest
from mmcore.language import models
from mmcore.language.batch import ConversationBatch
from mmcore.language.llava.names import WHOLE, kind
from mmcore.language.models import Hidden
from mmcore.language.published import check_numbers, with_all_words
from mmcore.language.sequence import Sequences
from mmcore.vision.frozen import is_frozen
from mmcore.vision.projectors import build_projector
from mmcore.vision.towers import build_tower
from mmcore.weights.files import read_tensors
from mmcore.weights.fill import fill
from mmcore.weights.maps import LoadReport, WeightMap
from torch import Tensor, nn

from mmcore_visper import weights
from mmcore_visper.config import TaskConfig, VisperConfig
from mmcore_visper.dpt import DepthDecoder, as_picture
from mmcore_visper.losses import embedding_loss, exchange_shares, gather_targets, is_distributed
from mmcore_visper.predictors import LogitScales, Predictor, TaskTokens, build_predictors
from mmcore_visper.views import View, constant_view, image_view

if TYPE_CHECKING:
    from mmcore.contract.protocols import DataContext

Teach = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
"""Live teachers: preprocessed pixels by task -> targets by task."""


@dataclass(frozen=True, slots=True)
class Interpretation:
    """What the predictors make of each image, for pictures and for probing."""

    outputs: Mapping[str, Mapping[int, list[Tensor]]]
    """Task -> layer -> outputs, the supervised one first; each (images, *target shape)."""
    depth_maps: Mapping[int, Float[Tensor, "images px px"]] = field(default_factory=dict)
    """Layer -> decoded depth of each image, 0 to 1."""


class Visper(Model):
    """The model contract of `mmcore.contract.model` for VisPer-LM and LLaVA-1.5.

    Args:
        config: sizes and switches.
        loss_weights: factor of each loss by name, "text" and the tasks that are predicted; those not named have the
            configuration's.
    """

    teachers: Teach | None = None
    """Asked for targets when a batch has none; no part of the weights."""

    def __init__(self, config: VisperConfig, loss_weights: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.config = config
        self._places: tuple[Path, ...] = ()
        own = {"text": 1.0} | {task.name: task.weight for task in config.tasks if config.predictors}
        self.loss_weights = own | {name: weight for name, weight in (loss_weights or {}).items() if name in own}
        self.tower = build_tower(config.tower).requires_grad_(False)
        self.projector = build_projector("mlp2x_gelu", config.tower.channels, config.width)
        self.language = models.build(config.language, config.attention)
        self.task_tokens = TaskTokens(config) if config.task_tokens else None
        self.predictors = build_predictors(config) if config.predictors else nn.ModuleDict()
        self.logit_scales = LogitScales(config) if config.predictors and config.use_contrastive else None
        self.depth_decoder = build_depth_decoder(config)

    @property
    def max_length(self) -> int:
        """Longest sequence in training, tokens."""
        return self.config.max_length

    # Training

    def forward(self, batch: ConversationBatch) -> Losses:
        """Text loss per token, and of each task the losses of its layers per sample."""
        hidden, queries = self.forward_hidden(batch, self.layers_read)
        text = self.language.token_loss(hidden.last, batch.sequences)
        losses = Losses(text=Loss(self.loss_weights["text"] * text, "tokens"))
        if self.predictors:
            losses |= self.embedding_losses(batch, self.predict_features(batch, hidden, queries))
        return losses

    def forward_hidden(
        self, batch: ConversationBatch, record: Sequence[int] = ()
    ) -> tuple[Hidden, Mapping[str, Tensor]]:
        """The language model's hidden states, and the queries that task tokens give predictors.

        Args:
            batch: any.
            record: hidden states to keep, 0 for the embeddings, i for the output of layer i.
        """
        features, queries = self.features(batch)
        embeds = self.language.embed(batch.sequences, features)
        published = self.config.padding_keys == "states"
        sequences = with_positions_at_padding(batch.sequences) if published else batch.sequences
        return self.language(embeds, sequences, record, published_padding=published), queries

    def features(self, batch: ConversationBatch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Rows by kind that stand among the words, (images, rows, width), and queries by task, (1, queries, width)."""
        if not self._sees(batch):
            return {}, {}
        with torch.set_grad_enabled(torch.is_grad_enabled() and not is_frozen(self.tower)):
            seen = self.tower(batch.images)
        rows = {"image": self.projector(seen)}
        inserted, queries = self.task_tokens() if self.task_tokens is not None else ({}, {})
        return rows | {task: tokens.expand(len(seen), -1, -1) for task, tokens in inserted.items()}, queries

    def predict_features(
        self, batch: ConversationBatch, hidden: Hidden, queries: Mapping[str, Tensor]
    ) -> dict[str, list[Tensor]]:
        """Task -> the supervised prediction at each of its layers, (images, *target shape); empty without images."""
        if not self._sees(batch):
            return {}
        result: dict[str, list[Tensor]] = {task.name: [] for task in self.config.tasks}
        for task, _, predictor, reads in self._readers(batch, hidden, queries):
            result[task.name].append(predictor(*reads))
        return result

    def embedding_losses(self, batch: ConversationBatch, predictions: Mapping[str, Sequence[Tensor]]) -> Losses:
        """Distance to the teachers' features and contrast with other images', summed over layers and samples."""
        if not predictions:
            nothing = batch.images.new_zeros((), dtype=torch.float32)
            return Losses({task.name: Loss(nothing, "samples") for task in self.config.tasks})
        targets = self.targets(batch)
        mask = _marks(batch.image_samples, batch.num_samples) if self._with_dummies(batch) else None
        scales = self.logit_scales() if self.logit_scales is not None else {}
        pooled = scales and self._shared and self.config.contrast_pool == "processes"
        shares = exchange_shares(targets) if pooled else None
        losses = Losses()
        for task in self.config.tasks:
            candidates = gather_targets(targets[task.name], shares) if scales else None
            parts = [
                embedding_loss(
                    prediction,
                    targets[task.name],
                    candidates,
                    scales.get(task.name),
                    weight=self.config.contrastive_weight,
                    has_image=mask,
                    outer_product=self.config.outer_product_mask,
                )
                for prediction in predictions[task.name]
            ]
            total = torch.stack([part.smooth_l1 + part.contrastive for part in parts]).sum()
            factor = 0.0 if self.config.released_masks else self.loss_weights[task.name]
            losses[task.name] = Loss(factor * total, "samples")
        return losses

    def targets(self, batch: ConversationBatch) -> Mapping[str, Tensor]:
        """What predictions are compared with, by task: cached, or asked of the live teachers.

        Raises:
            ShapeError: there are neither, or not one for each image.
        """
        wanted = {task.name: task for task in self._targeted}
        given: Mapping[str, Tensor] = batch.features
        if not given and batch.other_images and self.teachers is not None:
            with torch.no_grad():
                given = self.teachers(batch.other_images)
        rows = batch.num_samples if self._with_dummies(batch) else len(batch.images)
        if not rows and not given:
            return {name: batch.images.new_zeros(0, *task.target_shape) for name, task in wanted.items()}
        for name, task in wanted.items():
            shape = tuple(given[name].shape) if name in given else None
            if shape is None or shape[1:] != task.target_shape or (shape[0] != rows and len(batch.images)):
                raise ShapeError(
                    f"targets of {name} are {shape or 'missing'} instead of {(rows, *task.target_shape)}",
                    where=f"a batch of {batch.source}",
                    do="cache them with `mmcore data cache`, or give the teachers' weights",
                )
        return {name: given[name] for name in wanted}

    # Answers and pictures

    @torch.no_grad()
    def predict(self, batch: ConversationBatch) -> list[Prediction]:
        """The answer to each prompt of the batch."""
        from mmcore_visper.answers import answer

        return answer(self, batch)

    def prepare(
        self, images: Sequence[np.ndarray], *, names: Sequence[str] | None = None, prompt: str | None = None
    ) -> ConversationBatch:
        """One question about each (height, width, 3) uint8 RGB picture.

        Raises:
            UsageError: names are given.
        """
        from mmcore_visper.answers import prompts

        return prompts(self, images, names=names, prompt=prompt)

    @cached_property
    def tokenizer(self) -> Any:
        """The variant's tokenizer, opened when text is first needed; may be set."""
        from mmcore_visper.tokenizer import open_tokenizer

        return open_tokenizer(self.config, self._places)

    def attach(self, stage: Stage, context: "DataContext", folder: Path | None = None) -> None:
        """Where tokenizer and live teachers are looked for; both are opened when first needed.

        Args:
            stage: of the run; says which teachers.
            context: where the data lie.
            folder: of the run or export, which keeps its own tokenizer.
        """
        self._places = (*([folder] if folder else []), context.root)
        self.__dict__.pop("tokenizer", None)

        def teach(inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            from mmcore_visper.targets import decide

            decision = decide(stage, context)
            assert decision is not None, "teachers are asked only by stages with embedding losses"
            self.teachers = decision.load()
            return self.teachers(inputs)

        self.teachers = teach

    def keep_files(self, folder: Path) -> None:
        """Copy the tokenizer into a run's folder: answers must not depend on where the data were."""
        from mmcore.language.tokenizer_files import FOLDER

        self.tokenizer.save_pretrained(folder / FOLDER)

    @torch.no_grad()
    def interpret(self, batch: ConversationBatch) -> Interpretation:
        """Every output of the predictors for the images of a batch, and depth as pictures."""
        hidden, queries = self.forward_hidden(batch, self.layers_read)
        outputs: dict[str, dict[int, list[Tensor]]] = {task.name: {} for task in self.config.tasks}
        if self.predictors and self._sees(batch):
            for task, layer, predictor, reads in self._readers(batch, hidden, queries):
                outputs[task.name][layer] = predictor.outputs(*reads)
        return Interpretation(outputs, self.depth_pictures(outputs.get("depth", {})))

    def depth_pictures(self, outputs: Mapping[int, Sequence[Tensor]]) -> dict[int, Tensor]:
        """Layer -> depth of each image from 0 to 1; a single output stands for all four levels of the decoder."""
        if self.depth_decoder is None:
            return {}
        levels = {layer: list(found) if len(found) == 4 else [found[0]] * 4 for layer, found in outputs.items()}
        return {layer: as_picture(self.depth_decoder(found)) for layer, found in levels.items()}

    @property
    def layers_read(self) -> tuple[int, ...]:
        """Hidden states that predictors read."""
        read = {layer for task in self.config.tasks for layer in task.layers} if self.predictors else set[int]()
        return tuple(sorted(read))

    def _readers(
        self, batch: ConversationBatch, hidden: Hidden, queries: Mapping[str, Tensor]
    ) -> Iterator[tuple[TaskConfig, int, Predictor, tuple[Tensor, Tensor | None, Tensor]]]:
        """Every predictor with its task, its layer and what it reads: tokens, queries, and which tokens it may see."""
        view = self._view(batch)
        tokens = {layer: view.tokens(hidden.recorded[layer]) for layer in self.layers_read}
        for task in self.config.tasks:
            for layer, predictor in zip(task.layers, cast(nn.ModuleList, self.predictors[task.name]), strict=True):
                asked = queries.get(task.name)
                if asked is not None and task.name == "gen":
                    asked = view.own_tokens(tokens[layer], "gen")
                yield task, layer, cast(Predictor, predictor), (tokens[layer], asked, view.allowed[task.name])

    def _view(self, batch: ConversationBatch) -> View:
        sequences, samples = batch.sequences, batch.image_samples
        if self._with_dummies(batch):
            everyone = torch.arange(batch.num_samples, device=samples.device)
            return constant_view(sequences, everyone, self.config)
        if self.config.prompt_tokens is not None:
            return constant_view(sequences, samples, self.config)
        return image_view(sequences, samples, self.config)

    def _with_dummies(self, batch: ConversationBatch) -> bool:
        """Whether samples without an image are predicted as well, to be masked afterwards as published."""
        return self.config.outer_product_mask and 0 < len(batch.images) < batch.num_samples

    def _sees(self, batch: ConversationBatch) -> bool:
        """Whether the vision parts run: there are images, or other processes may have some."""
        return len(batch.images) > 0 or self._shared

    @property
    def _shared(self) -> bool:
        return self.training and is_distributed()

    @property
    def _targeted(self) -> Sequence[TaskConfig]:
        return self.config.tasks

    # Weights

    def published(self, format: str = "upstream") -> WeightMap:
        """The map between published VisPer-LM names and this model's.

        Raises:
            WeightsError: the format is not known.
        """
        if format not in weights.FORMATS:
            raise WeightsError(
                f"VisPer-LM has no weight format {format!r}",
                known=weights.FORMATS,
                do=suggest(format, weights.FORMATS, "choose one of these"),
            )
        return weights.upstream(self.config, teacher=self.carried())

    def carried(self) -> Mapping[str, Tensor]:
        """Tensors of the depth teacher's file that published checkpoints of this kind hold as well."""
        return {}

    def published_parts(self, tensors: Mapping[str, Tensor]) -> WeightMap:
        """The published map for tensors of another stage: parts that they lack altogether stay new."""
        return weights.upstream(self.config, tensors)

    def initialise(self, path: str | Path) -> LoadReport:
        """Fill from a published file or folder, told apart by its names; several calls fill one part each.

        VisPer-LM and LLaVA of any stage (what later stages dropped stays new), a language model of Llama or Phi-3, a
        CLIP tower, a projector, Depth-Anything-V2 for its depth decoder.

        Raises:
            MissingDataError: there is no such file.
            WeightsError: it is none of these, does not fit, or its configuration says other numbers.
        """
        tensors: Mapping[str, Tensor] = read_tensors(path)
        own = self.state_dict()
        found = kind(tensors, weights.PARTS)
        part = weights.PARTS.get(found)
        if part and not any(name.startswith(f"{part.fills}.") for name in own):
            raise WeightsError(f"this model has no use for a {part.label}: it has no {part.fills}", where=path)
        if found in (WHOLE, "language"):
            check_numbers(path, self.language)
            tensors = with_all_words(tensors, self.language.embed_tokens.num_embeddings)
        names = part.map(own) if part else weights.upstream(self.config, tensors)
        state, report = names.to_ours(tensors, own)
        fill(self, state)
        return report

    def export_hf(self, folder: Path, state: Mapping[str, Tensor], max_shard_bytes: int) -> str | None:
        """A folder that plain transformers opens, where its LLaVA has this tower (`mmcore.runs.export`)."""
        from mmcore_visper.export import export_hf

        published = self.published().to_published(state)
        return export_hf(published, self.config, self.tokenizer, folder, max_shard_bytes)

    def export_files(self, folder: Path, format: str) -> None:
        """Configuration and tokenizer beside published weights."""
        from mmcore_visper.export import export_upstream_files

        if format == "hf":
            self.tokenizer.save_pretrained(folder)
            return
        export_upstream_files(self.config, self.tokenizer, folder)

    def checkpoint_blocks(self) -> Sequence[nn.Module]:
        """The language model's layers."""
        return self.language.layers

    def lora_modules(self) -> Sequence[nn.Module]:
        """The language model without its output layer; the tower's layers have the same names."""
        return (self.language.model,)

    def idle_parameters(self, stage: Stage) -> tuple[str, ...]:
        """Parameters that no loss reaches; published files have them.

        The later MLPs of depth predictors imitate features that nothing is compared with; the tower is read before its
        last layers.
        """
        del stage
        unread = (f"tower.{part}" for part in self.tower.unread())
        return ("predictors.depth.*.mlps.1.*", "predictors.depth.*.mlps.2.*", "depth_decoder", *unread)


def build_depth_decoder(config: VisperConfig) -> DepthDecoder | None:
    """The frozen decoder of models that predict depth."""
    predicted = [config.probe] if config.probe else [task.name for task in config.tasks if config.predictors]
    sizes = config.depth_decoder
    if "depth" not in predicted or sizes is None:
        return None
    return DepthDecoder(sizes.in_channels, sizes.features, sizes.out_channels).requires_grad_(False)


def with_positions_at_padding(sequences: Sequences) -> Sequences:
    """Positions that go on through the padding on the right, as the published code counts them."""
    rows, length = sequences.shape
    if sequences.segments is not None:
        raise ShapeError("states at padding are defined for one sample a row", where="model.padding_keys")
    positions = torch.arange(length, device=sequences.ids.device).expand(rows, -1)
    return dataclasses.replace(sequences, positions=positions)


def _marks(samples: Tensor, count: int) -> Tensor:
    """(count,): 1 where a sample has an image."""
    return torch.zeros(count, device=samples.device).index_fill(0, samples, 1.0)
