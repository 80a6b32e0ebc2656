"""VisPer-LM: pictures and words in, answers out; hidden states on the way also predict what vision teachers see.

    image -> tower -> projector -> +----------------+
                                   | spliced tokens | -> language model -> text loss, answers
    words, task tokens ----------> +----------------+          |
                                                          hidden states -> predictors -> embedding losses

LLaVA-1.5 is the same without task tokens and predictors. Tower, projector, language model and answers are the core's
(`mmcore.language.llava.model`); here stand the task tokens, the predictors and their losses.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from mmcore import Stage
from mmcore.contract.values import Loss, Losses
from mmcore.errors import ShapeError
from mmcore.language.batch import ConversationBatch
from mmcore.language.llava.model import LlavaModel
from mmcore.language.models import Hidden
from mmcore.language.sequence import with_positions_at_padding
from mmcore.language.tokenizer_files import save_tokenizer
from mmcore.weights.maps import WeightMap
from torch import Tensor, nn

from mmcore_visper import weights
from mmcore_visper.config import TaskConfig, VisperConfig
from mmcore_visper.dpt import build_depth_decoder
from mmcore_visper.losses import embedding_loss, exchange_shares, gather_targets
from mmcore_visper.predictors import LogitScales, Predictor, TaskTokens, build_predictors
from mmcore_visper.tokenizer import write_tiny
from mmcore_visper.views import View, constant_view, image_view

if TYPE_CHECKING:
    from mmcore.contract.protocols import DataContext

Teach = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
"""Live teachers: preprocessed pixels by task -> targets by task."""
Reads = tuple[Tensor, Tensor | None, Tensor]
"""What a predictor takes: tokens, queries, and which tokens it may see."""


class Visper(LlavaModel):
    """VisPer-LM and LLaVA-1.5.

    Args:
        config: sizes and switches.
        loss_weights: factor of each loss by name, "text" and the tasks that are predicted; those not named have the
            configuration's.
    """

    config: VisperConfig
    PARTS = weights.PARTS
    TOKENIZERS = {"tiny": write_tiny}  # noqa: RUF012 as in the base class
    teachers: Teach | None = None
    """Asked for targets when a batch has none; no part of the weights."""

    def __init__(self, config: VisperConfig, loss_weights: Mapping[str, float] | None = None) -> None:
        super().__init__(config, loss_weights)
        self.task_tokens = TaskTokens(config) if config.task_tokens else None
        self.predictors = build_predictors(config) if config.predictors else nn.ModuleDict()
        self.logit_scales = LogitScales(config) if config.predictors and config.use_contrastive else None
        self.depth_decoder = build_depth_decoder(config)

    def own_losses(self) -> dict[str, float]:
        """Text, and the tasks that are predicted."""
        return {"text": 1.0} | {task.name: task.weight for task in self.config.tasks if self.config.predictors}

    # Training

    def forward(self, batch: ConversationBatch) -> Losses:
        """Text loss per token, and of each task the losses of its layers per sample."""
        hidden, queries = self.forward_hidden(batch, self.layers_read)
        losses = Losses(text=self.text_loss(hidden, batch))
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
        rows, queries = self.rows_and_queries(batch)
        embeds = self.language.embed(batch.sequences, rows)
        keeps_padding = self.config.published.padding_keys == "states"
        sequences = with_positions_at_padding(batch.sequences) if keeps_padding else batch.sequences
        return self.language(embeds, sequences, record, published_padding=keeps_padding), queries

    def rows_and_queries(self, batch: ConversationBatch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Rows by kind that stand among the words, (images, rows, width), and queries by task, (1, queries, width)."""
        if not self.sees(batch):
            return {}, {}
        rows = {"image": self.see(batch.images)}
        inserted, queries = self.task_tokens() if self.task_tokens is not None else ({}, {})
        return rows | {task: tokens.expand(len(batch.images), -1, -1) for task, tokens in inserted.items()}, queries

    def spliced(self, batch: ConversationBatch) -> dict[str, Tensor]:
        """The image, and the task tokens after it."""
        return self.rows_and_queries(batch)[0]

    def predict_features(
        self, batch: ConversationBatch, hidden: Hidden, queries: Mapping[str, Tensor]
    ) -> dict[str, list[Tensor]]:
        """Task -> the supervised prediction at each of its layers, (images, *target shape); empty without images."""
        if not self.sees(batch):
            return {}
        result: dict[str, list[Tensor]] = {task.name: [] for task in self.config.tasks}
        for task, _, predictor, reads in self.readers(batch, hidden, queries):
            result[task.name].append(predictor(*reads))
        return result

    def embedding_losses(self, batch: ConversationBatch, predictions: Mapping[str, Sequence[Tensor]]) -> Losses:
        """Distance to the teachers' features and contrast with other images', summed over layers and samples."""
        if not predictions:
            nothing = batch.images.new_zeros((), dtype=torch.float32)
            return Losses({task.name: Loss(nothing, "samples") for task in self.config.tasks})
        targets, quirks = self.targets(batch), self.config.published
        mask = _marks(batch.image_samples, batch.num_samples) if self._with_dummies(batch) else None
        scales = self.logit_scales() if self.logit_scales is not None else {}
        pooled = scales and self.is_shared and self.config.contrast_pool == "processes"
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
                    outer_product=quirks.outer_product_mask,
                )
                for prediction in predictions[task.name]
            ]
            total = torch.stack([part.smooth_l1 + part.contrastive for part in parts]).sum()
            factor = 0.0 if quirks.released_masks else self.loss_weights[task.name]
            losses[task.name] = Loss(factor * total, "samples")
        return losses

    def targets(self, batch: ConversationBatch) -> Mapping[str, Tensor]:
        """What predictions are compared with, by task: cached, or asked of the live teachers.

        Raises:
            ShapeError: there are neither, or not one for each image.
        """
        wanted = {task.name: task for task in self.targeted}
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

    @property
    def targeted(self) -> Sequence[TaskConfig]:
        """The tasks that have targets."""
        return self.config.tasks

    @property
    def layers_read(self) -> tuple[int, ...]:
        """Hidden states that predictors read."""
        read = {layer for task in self.config.tasks for layer in task.layers} if self.predictors else set[int]()
        return tuple(sorted(read))

    def readers(
        self, batch: ConversationBatch, hidden: Hidden, queries: Mapping[str, Tensor]
    ) -> Iterator[tuple[TaskConfig, int, Predictor, Reads]]:
        """Every predictor with its task, its layer and what it reads."""
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
        if self.config.published.prompt_tokens is not None:
            return constant_view(sequences, samples, self.config)
        return image_view(sequences, samples, self.config)

    def _with_dummies(self, batch: ConversationBatch) -> bool:
        """Whether samples without an image are predicted as well, to be masked afterwards as published."""
        return self.config.published.outer_product_mask and 0 < len(batch.images) < batch.num_samples

    def attach(self, stage: Stage, context: "DataContext", folder: Path | None = None) -> None:
        """Where tokenizer and live teachers are looked for; both are opened when first needed."""
        super().attach(stage, context, folder)

        def teach(inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            from mmcore_visper.targets import decide

            decision = decide(stage, context)
            assert decision is not None, "teachers are asked only by stages with embedding losses"
            self.teachers = decision.load()
            return self.teachers(inputs)

        self.teachers = teach

    # Weights

    def upstream_names(self) -> WeightMap:
        """The map between published VisPer-LM names and this model's."""
        return weights.upstream(self.config, teacher=self.carried())

    def carried(self) -> Mapping[str, Tensor]:
        """Tensors of the depth teacher's file that published checkpoints of this kind hold as well."""
        return {}

    def published_parts(self, tensors: Mapping[str, Tensor]) -> WeightMap:
        """The published map for tensors of another stage: parts that they lack altogether stay new."""
        return weights.upstream(self.config, tensors)

    def export_hf(self, folder: Path, state: Mapping[str, Tensor], max_shard_bytes: int) -> str | None:
        """A folder that plain transformers opens, where its LLaVA has this tower (`mmcore.runs.export`)."""
        from mmcore_visper.export import export_hf

        published = self.published().to_published(state)
        return export_hf(published, self.config, self.tokenizer, folder, max_shard_bytes)

    def export_files(self, folder: Path, format: str) -> None:
        """Configuration and tokenizer beside published weights."""
        from mmcore_visper.export import export_upstream_files

        if format == "hf":
            save_tokenizer(self.tokenizer, folder)
            return
        export_upstream_files(self.config, self.tokenizer, folder)

    def idle_parameters(self, stage: Stage) -> tuple[str, ...]:
        """Parameters that no loss reaches; published files have them.

        The later MLPs of depth predictors imitate features that nothing is compared with; the tower is read before its
        last layers.
        """
        idle = ("predictors.depth.*.mlps.1.*", "predictors.depth.*.mlps.2.*", "depth_decoder")
        return (*idle, *super().idle_parameters(stage))


def _marks(samples: Tensor, count: int) -> Tensor:
    """(count,): 1 where a sample has an image."""
    return torch.zeros(count, device=samples.device).index_fill(0, samples, 1.0)
