"""Probing: one small predictor reads every layer of a frozen model, and says how much of a teacher's features is there.

docs/Probing.md of VisPer-LM: learned queries on all positions of each layer, mean smooth L1, summed over layers;
nothing else is trained. Published probes exist for Llama only; any variant can be probed here.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from mmcore import Stage
from mmcore.contract.values import Loss, Losses, Prediction
from mmcore.language.batch import ConversationBatch
from mmcore.weights.files import read_tensors
from torch import Tensor, nn

from mmcore_visper.config import TaskConfig, VisperConfig
from mmcore_visper.losses import smooth_l1
from mmcore_visper.model import Visper
from mmcore_visper.predictors import Predictor
from mmcore_visper.views import whole_view


class VisperProbe(Visper):
    """A frozen VisPer-LM or LLaVA with a probe for every layer.

    Args:
        config: with `probe`, the task.
    """

    teacher_file: Path | None = None
    """Depth-Anything-V2, for published files that carry it."""

    def __init__(self, config: VisperConfig) -> None:
        super().__init__(config.replace(predictors=False))
        self.requires_grad_(False)
        self.loss_weights = {}  # the probes' loss is the only one
        assert config.probe is not None
        self.task = config.task(config.probe)
        self.layers = tuple(range(1, config.num_layers + 1))
        self.probes = nn.ModuleList(Predictor(config, self.task, probe=True) for _ in self.layers)

    def forward(self, batch: ConversationBatch) -> Losses:
        """Smooth L1 of the probes, per sample and summed over layers."""
        predictions = self.probe(batch)
        if not predictions:
            return Losses(probe=Loss(batch.images.new_zeros(()), "samples"))
        target = self.targets(batch)[self.task.name]
        distances = torch.stack([smooth_l1(prediction, target).sum() for prediction in predictions])
        return Losses(probe=Loss(distances.sum(), "samples"))

    def probe(self, batch: ConversationBatch) -> list[Tensor]:
        """Each layer's prediction for the images of the batch, (images, *target shape); none without images."""
        with torch.no_grad():
            hidden, _ = self.forward_hidden(batch, self.layers)
        if not self.sees(batch):
            return []
        view = whole_view(batch.sequences, batch.image_samples, self.config)
        allowed = view.allowed.get(self.task.name)
        return [
            probe(view.tokens(hidden.recorded[layer]), None, allowed)
            for layer, probe in zip(self.layers, self.probes, strict=True)
        ]

    @torch.no_grad()
    def predict(self, batch: ConversationBatch) -> list[Prediction]:
        """Each image's measure `cosine`: one number per layer, the cosine between its whole prediction and the target.

        A prompt, which brings nothing to compare with, is answered by the probed model.
        """
        if len(batch.images) and not batch.features and not batch.other_images:
            return super().predict(batch)
        found = self.probe(batch)
        if not found:
            return []
        target = self.targets(batch)[self.task.name]
        return similarities([cosine(prediction, target) for prediction in found], batch)

    def train(self, mode: bool = True) -> "VisperProbe":
        """Training or evaluation of the probes; the probed model always evaluates."""
        super().train(mode)
        for name, part in self.named_children():
            if name != "probes":
                part.train(False)
        return self

    def carried(self) -> Mapping[str, Tensor]:
        """Published depth probes hold their whole teacher; without its file they are written without it."""
        return read_tensors(self.teacher_file) if self.task.name == "depth" and self.teacher_file else {}

    @property
    def targeted(self) -> Sequence[TaskConfig]:
        """The probed task."""
        return (self.task,)

    def idle_parameters(self, stage: Stage) -> tuple[str, ...]:
        """None: every probe is trained."""
        del stage
        return ()


def cosine(prediction: Tensor, target: Tensor) -> Tensor:
    """(images,): similarity of whole predictions, the score of probing."""
    return torch.cosine_similarity(prediction.float().flatten(1), target.float().flatten(1), dim=-1)


def similarities(predictions: Sequence[Tensor], batch: ConversationBatch) -> list[Prediction]:
    """Each image with its measure `cosine`, one number a layer, from one (images,) tensor per layer."""
    rows = torch.stack(list(predictions), 1).float().tolist()
    chosen = batch.image_samples.tolist()
    return [
        Prediction(
            image_id=batch.image_ids[sample],
            size=batch.original_sizes[sample],
            record_id=batch.record_ids[sample],
            measures={"cosine": tuple(row)},
        )
        for sample, row in zip(chosen, rows, strict=True)
    ]
