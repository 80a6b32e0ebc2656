"""Denoising queries (DN-DETR): noised objects that the decoder must restore, beside the real queries while training.

Each object of an image is copied once per group. Group g, object j of an image sits at slot g · longest + j, where
`longest` is the most objects any image of the batch has; other slots stay empty. Real queries never see these slots,
groups never see each other.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from mmcore.errors import RecipeError, suggest
from torch import Tensor, nn

from mmcore_glee.batch import GleeBatch
from mmcore_glee.config import GleeConfig
from mmcore_glee.layers import inverse_sigmoid
from mmcore_glee.outputs import Draws
from mmcore_glee.vocabulary import known_lists

TABLES = {
    "coco": 80,
    "obj365": 100,
    "vg": 200,
    "grounding": 1,
    "ytvis19": 40,
    "ytvis21": 40,
    "ovis": 25,
    "uvo": 81,
    "bdd_det": 10,
    "bdd_inst": 8,
}
"""Label embeddings and their number of rows."""

TABLE_OF_TASK = {
    "coco": "coco",
    "coco_clip": "coco",
    "obj365": "obj365",
    "lvis": "obj365",
    "openimage": "obj365",
    "grit": "obj365",
    "obj365_clip": "obj365",
    "lvis_clip": "obj365",
    "openimage_clip": "obj365",
    "vg": "vg",
    "omnilabel": "vg",
    "sa1b": "grounding",
    "sa1b_clip": "grounding",
    "grounding": "grounding",
    "rvos": "grounding",
    "ytbvos": "grounding",
    "bdd_det": "bdd_det",
    "bdd_inst": "bdd_inst",
    "bdd_track_seg": "bdd_inst",
    "bdd_track_box": "bdd_inst",
    "ytvis19": "ytvis19",
    "image_yt19": "ytvis19",
    "ytvis21": "ytvis21",
    "image_yt21": "ytvis21",
    "ovis": "ovis",
    "image_o": "ovis",
    "uvo_video": "uvo",
    # assumed: the published code has no table for training on these; they are sampled as LVIS is.
    "burst": "obj365",
    "lvvis": "obj365",
    "tao_video": "obj365",
    **{name: "coco" for name in known_lists() if name.startswith("odinw13_")},
}
"""Which label embedding each task noises its labels with."""


@dataclass(slots=True)
class Denoising:
    """Denoising queries of a batch."""

    content: Float[Tensor, "batch slots dim"]
    """Embedding of the (noised) label; zero in empty slots."""
    box_logits: Float[Tensor, "batch slots 4"]
    """Noised boxes before the sigmoid, cxcywh; zero in empty slots."""
    visible: Bool[Tensor, "all all"]
    """Which query (slots first, then the real queries) may look at which."""
    groups: int

    @property
    def num_slots(self) -> int:
        return self.content.shape[1]


class LabelEmbeddings(nn.ModuleDict):
    """One embedding per vocabulary size; tasks share them.

    Args:
        dim: channels.
    """

    def __init__(self, dim: int) -> None:
        super().__init__({name: nn.Embedding(rows, dim) for name, rows in TABLES.items()})

    def of_task(self, task: str) -> nn.Embedding:
        """The embedding a task uses.

        Raises:
            RecipeError: no embedding belongs to the task.
        """
        if task not in TABLE_OF_TASK:
            raise RecipeError(
                f"GLEE has no label embedding for task {task!r}",
                known=TABLE_OF_TASK,
                do=suggest(task, TABLE_OF_TASK, "give the source one of these tasks"),
            )
        table = self[TABLE_OF_TASK[task]]
        assert isinstance(table, nn.Embedding)
        return table


def make_denoising(
    batch: GleeBatch, tables: LabelEmbeddings, config: GleeConfig, num_queries: int, draws: Draws
) -> Denoising | None:
    """Noised copies of the batch's objects as queries, or None when there is no object or no room for a whole group.

    Args:
        batch: objects and task.
        tables: label embeddings.
        config: number of queries and amount of noise.
        num_queries: real queries that follow the slots.
        draws: the random numbers.
    """
    longest = max(batch.num_objects, default=0)
    groups = config.denoising_queries // longest if longest and config.denoising != "no" else 0
    if groups == 0:
        return None
    table = tables.of_task(batch.task)
    labels, boxes = batch.labels.repeat(groups), batch.boxes_cxcywh.repeat(groups, 1)
    classes = min(table.num_embeddings, batch.num_classes)
    flip, other, uniform = draws.denoising(len(labels), classes, config.denoising_noise / 2, labels.device)
    labels = torch.where(flip, other, labels)
    # Half the box in either direction for the centre, the whole box for its size.
    reach = torch.cat([boxes[:, 2:] / 2, boxes[:, 2:]], dim=1) * config.denoising_noise
    boxes = (boxes + (uniform * 2 - 1) * reach).clamp(0, 1)
    slots = _slots(batch.num_objects, longest, groups).to(labels.device, non_blocking=True)
    shape = (len(batch.num_objects), groups * longest)
    content = _place(table(labels), slots, shape)
    box_logits = _place(inverse_sigmoid(boxes), slots, shape)
    return Denoising(content, box_logits, _visible(groups, longest, num_queries, labels.device), groups)


def _slots(num_objects: tuple[int, ...], longest: int, groups: int) -> Tensor:
    """Row of each noised copy in the (batch · slots) table, groups outermost."""
    per_image = groups * longest
    first = torch.tensor([i * per_image + j for i, n in enumerate(num_objects) for j in range(n)])
    return (first[None] + torch.arange(groups)[:, None] * longest).flatten()


def _place(rows: Tensor, slots: Tensor, shape: tuple[int, int]) -> Tensor:
    table = rows.new_zeros(shape[0] * shape[1], rows.shape[-1])
    return table.index_copy(0, slots, rows).unflatten(0, shape)


def _visible(groups: int, longest: int, num_queries: int, device: torch.device) -> Bool[Tensor, "all all"]:
    group = torch.arange(groups, device=device).repeat_interleave(longest)
    group = torch.cat([group, group.new_full((num_queries,), -1)])
    real = group < 0
    return (group[:, None] == group[None]) | real[None]
