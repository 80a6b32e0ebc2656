"""The image tasks of GLEE: which words a batch is asked about, and what its sources have.

A batch belongs to one task. The task decides the vocabulary (reference table: all names, 100 sampled names, phrases of
the batch, or one expression per image), the label embedding of denoising queries and whether masks take part.
"""

from dataclasses import dataclass
from typing import Any, Literal

from mmcore.errors import RecipeError, suggest

from mmcore_glee.vocabulary import known_lists

Words = Literal["all", "sampled", "phrases", "expression"]
"""How the names of a batch are chosen:

    all         the whole vocabulary
    sampled     the labels that occur in the batch and random other names, `num_names` together
    phrases     the phrases that occur in the batch and random others, `num_names` together, shuffled; for inference
                those that the images are asked about
    expression  none; every image has one referring expression
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task."""

    name: str
    vocabulary: str
    """List of names in `mmcore_glee.vocabulary`."""
    words: Words = "all"
    num_names: int | None = None
    """Names per training batch; None is as many as the vocabulary has."""
    denoising_classes: int
    """Rows of the label embedding from which denoising queries are made."""
    has_masks: bool = True
    prompts: bool = False
    """Whether training batches may become visual prompts."""
    clips: bool = False
    """Whether its samples are clips of videos."""
    clip_prompts: Literal["never", "drawn", "user"] = "never"
    """Whether clips of a stage with visual prompts are prompted in their first frame, and how: by the mask of the
    file, or now and then as a user would (a point or a box)."""
    by_order: bool = True
    """Whether categories of a file with as many as the vocabulary are taken in order of id, whatever their spelling, as
    the published code does; otherwise names must agree."""


_SAMPLED: dict[str, Any] = {"words": "sampled", "num_names": 100, "denoising_classes": 100, "by_order": False}

_TASKS = (
    Task(name="coco", vocabulary="coco", denoising_classes=80, prompts=True, by_order=False),
    Task(name="lvis", vocabulary="lvis", words="sampled", num_names=100, denoising_classes=100, by_order=False),
    Task(name="obj365", vocabulary="obj365", words="sampled", num_names=100, denoising_classes=100, has_masks=False),
    Task(
        name="openimage",
        vocabulary="openimage",
        words="sampled",
        num_names=100,
        denoising_classes=100,
        has_masks=False,
    ),
    Task(name="vg", vocabulary="object", words="phrases", num_names=200, denoising_classes=200, has_masks=False),
    Task(name="grit", vocabulary="object", words="phrases", num_names=100, denoising_classes=100, has_masks=False),
    Task(name="grounding", vocabulary="object", words="expression", denoising_classes=1),
    Task(name="sa1b", vocabulary="object", denoising_classes=1, prompts=True),
    Task(name="bdd_det", vocabulary="bdd_det", denoising_classes=10, has_masks=False),
    Task(name="bdd_inst", vocabulary="bdd_inst", denoising_classes=8),
    Task(name="image_yt19", vocabulary="ytvis19", denoising_classes=40, prompts=True),
    Task(name="image_yt21", vocabulary="ytvis21", denoising_classes=40, prompts=True),
    Task(name="image_o", vocabulary="ovis", denoising_classes=25, prompts=True),
    Task(name="ytvis19", vocabulary="ytvis19", denoising_classes=40, clips=True, clip_prompts="drawn"),
    Task(name="ytvis21", vocabulary="ytvis21", denoising_classes=40, clips=True, clip_prompts="drawn"),
    Task(name="ovis", vocabulary="ovis", denoising_classes=25, clips=True, clip_prompts="drawn"),
    Task(name="uvo_video", vocabulary="uvo_video", denoising_classes=81, clips=True, clip_prompts="user"),
    Task(name="bdd_track_seg", vocabulary="bdd_inst", denoising_classes=8, clips=True, clip_prompts="drawn"),
    Task(name="bdd_track_box", vocabulary="bdd_inst", denoising_classes=8, clips=True, has_masks=False),
    Task(name="coco_clip", vocabulary="coco", denoising_classes=80, clips=True, clip_prompts="user", by_order=False),
    Task(name="rvos", vocabulary="object", words="expression", denoising_classes=1, clips=True),
    Task(name="ytbvos", vocabulary="object", denoising_classes=1, clips=True, clip_prompts="drawn"),
    # assumed: the published code has neither training nor inference for it; each image is asked about its own texts.
    Task(name="omnilabel", vocabulary="object", words="phrases", num_names=200, denoising_classes=200, has_masks=False),
    # assumed: the published code cannot train on these three; they are sampled as its LVIS is.
    Task(name="burst", vocabulary="burst", clips=True, **_SAMPLED),
    Task(name="lvvis", vocabulary="lvvis", clips=True, **_SAMPLED),
    Task(name="tao_video", vocabulary="image_tao", clips=True, has_masks=False, **_SAMPLED),
)

_ODINW = tuple(
    # assumed: the published code cannot train on these; their denoising queries are labelled by COCO's embedding.
    Task(name=name, vocabulary=name, denoising_classes=80, has_masks=False)
    for name in known_lists()
    if name.startswith("odinw13_")
)

TASKS = {task.name: task for task in (*_TASKS, *_ODINW)}


def task_named(name: object, where: str) -> Task:
    """The task with this name.

    Raises:
        RecipeError: there is none.
    """
    if name not in TASKS:
        raise RecipeError(
            f"no task named {name!r}", where=where, known=TASKS, do=suggest(str(name), TASKS, "choose one of these")
        )
    return TASKS[str(name)]
