"""GLEE on videos: fine-tuning of the joint weights, text encoder frozen, as published; and what was only announced.

The published files for BURST and TAO, and LV-VIS of Lite, can be evaluated but not trained: the code has no vocabulary
sampling for them. Here they are sampled as LVIS is. Numbers are those of `projects/GLEE/configs/videos`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from mmcore import AdamW, Data, Init, MultiStep, Source, SourcePerBatch, Stage, Validation

from mmcore_glee.recipes.lsj import LSJ
from mmcore_glee.recipes.multiscale import HUB, LITE_PRETRAIN, MULTISCALE

_SHORT = (320, 352, 392, 416, 448, 480, 512, 544, 576, 608, 640)
_AP = "segm/AP"
_LONG = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)


def _clips(annotations: str, images: str, task: str, *, frames: int = 2, reach: int = 5, **more: Any) -> Source:
    options = {"task": task, "num_frames": frames, "frame_range": reach}
    return Source(weight=1.0, format="YouTube-VIS", annotations=annotations, images=images, options=options, **more)


def _videos(
    annotations: str, images: str, task: str, *metrics: str, format: str = "YouTube-VIS", **options: str
) -> Validation:
    options = {"task": task, **options}
    return Validation(metrics=metrics, annotations=annotations, images=images, format=format, options=options)


YTVIS19 = _clips("ytvis_2019/annotations/instances_train_sub.json", "ytvis_2019/train/JPEGImages", "ytvis19")
YTVIS21 = _clips("ytvis_2021/annotations/instances_train_sub.json", "ytvis_2021/train/JPEGImages", "ytvis21")
OVIS = _clips("ovis/annotations_train.json", "ovis/train", "ovis", reach=10)
UVO = _clips(
    "UVO/annotations/VideoDenseSet/UVO_video_train_dense_objectlabel.json",
    "UVO/uvo_videos_dense_frames_jpg",
    "uvo_video",
)
LVVIS = _clips("lvvis/train_instances.json", "lvvis/train/JPEGImages", "lvvis")
BURST = _clips(
    "TAO/burst_annotations/TAO_train_withlabel_ytvisformat.json", "TAO/frames/train", "burst", frames=4, reach=12
)
BDD_MASKS = _clips(
    "bdd100k/labels/seg_track_20/seg_track_train_cocoformat_uni.json",
    "bdd100k/images/seg_track_20/train",
    "bdd_track_seg",
)
BDD_BOXES = _clips(
    "bdd100k/labels/box_track_20/box_track_train_cocofmt_uni.json", "bdd100k/images/track/train", "bdd_track_box"
).replace(format="YouTube-VIS boxes")
REFERRING = _clips("ref-youtube-vos/train.json", "ref-youtube-vos/train/JPEGImages", "rvos").replace(
    format="Ref-YouTube-VOS"
)
YTVOS = _clips("ytbvos18/train/train.json", "ytbvos18/train/JPEGImages", "ytbvos")
MOSE = _clips("mose/train/train.json", "mose/train/JPEGImages", "ytbvos")

YTVIS19_VAL = _videos("ytvis_2019/annotations/instances_val_sub.json", "ytvis_2019/val/JPEGImages", "ytvis19", _AP)
YTVIS21_VAL = _videos("ytvis_2021/annotations/instances_val_sub.json", "ytvis_2021/val/JPEGImages", "ytvis21", _AP)
OVIS_VAL = _videos("ovis/annotations_valid.json", "ovis/valid", "ovis", _AP)
LVVIS_VAL = _videos("lvvis/val_instances.json", "lvvis/val/JPEGImages", "lvvis", _AP)
BURST_VAL = _videos(
    "TAO/burst_annotations/TAO_val_withlabel_ytvisformat.json",
    "TAO/frames/val",
    "burst",
    *("HOTA", "AP", "HOTA-common", "AP-common", "HOTA-uncommon", "AP-uncommon"),
    protocol="burst",
)
TAO_VAL = _videos(
    "TAO/TAO_annotations/validation_ytvisfmt.json",
    "TAO/frames",
    "tao_video",
    *("TETA", "LocA", "AssocA", "ClsA"),
    format="YouTube-VIS boxes",
    protocol="tao",
)
UVO_VAL = _videos(
    "UVO/annotations/VideoDenseSet/UVO_video_val_dense_objectlabel.json",
    "UVO/uvo_videos_dense_frames_jpg",
    "uvo_video",
    _AP,
)
REFERRING_VAL = _videos(
    "ref-youtube-vos/valid.json", "ref-youtube-vos/valid/JPEGImages", "rvos", "J&F", format="Ref-YouTube-VOS"
)
UVO_FRAMES_VAL = Validation(
    metrics=("segm/AR@100", "bbox/AR@100"),
    annotations="custom_annotations/UVO/annotations/FrameSet/UVO_frame_val_onecategory.json",
    images="UVO/uvo_videos_frames",
    format="COCO instances",
    options={"task": "sa1b", "protocol": "class_agnostic"},
)
"""Single frames whose every object is annotated: the authors' AR on UVO."""
BDD_MASKS_VAL = _videos(
    "bdd100k/labels/seg_track_20/seg_track_val_cocoformat_uni.json",
    "bdd100k/images/seg_track_20/val",
    "bdd_track_seg",
    *("HOTA", "MOTA", "IDF1"),
    protocol="mot",
)
BDD_BOXES_VAL = _videos(
    "bdd100k/labels/box_track_20/box_track_val_cocofmt_uni.json",
    "bdd100k/images/track/val",
    "bdd_track_box",
    *("HOTA", "MOTA", "IDF1"),
    format="YouTube-VIS boxes",
    protocol="mot",
)

_OPTIM = AdamW(lr=1e-4, weight_decay=0.05, multipliers={"backbone": 0.1}, clip_grad_norm=0.01)
_FROZEN = "text: the tuned encoder of the joint weights, frozen; their teacher and prompt fuser are not used"
_NO_METRIC = "validation: the published valid set has no annotations, so an evaluation writes the result file alone"
_CRASHES = "assumed: the published code stops at its first training step; names are sampled as LVIS's are"
_ONE_FRAME = "frames: one a clip as in the published file, so that there is no track loss"
_BOXES = "boxes: too small by the padding of a frame as in the published code; model.padded_video_boxes=false mends it"


class _Row(NamedTuple):
    """One stage as the published files of the three sizes have it; what differs between sizes is filled in."""

    name: str
    title: str
    origin: str
    """`{size}` is Lite, Plus or Pro; `{base}` the same, but "base" for Lite."""
    sources: Mapping[str, Source]
    validation: Mapping[str, Validation] = {}
    steps: tuple[int, int] = (18_000, 12_000)
    """All, and where the rate falls to a tenth."""
    clips: int = 8
    """A step of Lite and Plus; Pro takes 8 everywhere."""
    sizes: tuple[tuple[int, ...], int, int] = (_LONG, 1333, 720)
    """Shorter sides and limit of the longer side in training, shorter side at inference; Pro has squares of 1536."""
    pro_window: int = 10
    """Frames of Pro that go through the model at a time."""
    notes: tuple[str, ...] = ()
    visual_prompt: bool = False


_SHORT_RUN = (8_000, 6_000)
_ROWS = (
    _Row(
        "ytvis19",
        "video instance segmentation on YouTube-VIS 2019",
        "configs/videos/{size}/ytvis19_{base}.yaml",
        {"ytvis19": YTVIS19},
        {"ytvis19_val": YTVIS19_VAL},
        steps=_SHORT_RUN,
        sizes=(_SHORT, 1333, 480),
        notes=(_NO_METRIC,),
    ),
    _Row(
        "ytvis21",
        "video instance segmentation on YouTube-VIS 2021",
        "assumed; the recipe of ytvis19 on the other data set, which upstream registers without a file for it",
        {"ytvis21": YTVIS21},
        {"ytvis21_val": YTVIS21_VAL},
        steps=_SHORT_RUN,
        sizes=(_SHORT, 1333, 480),
        notes=(_NO_METRIC,),
    ),
    _Row(
        "ovis",
        "video instance segmentation under occlusion on OVIS",
        "configs/videos/{size}/ovis_{base}.yaml",
        {"ovis": OVIS},
        {"ovis_val": OVIS_VAL},
        pro_window=2,
        notes=(_NO_METRIC,),
    ),
    _Row(
        "burst",
        "open-world tracking on BURST",
        "configs/videos/{size}/BURST_{size}.yaml",
        {"burst": BURST},
        {"burst_val": BURST_VAL},
        steps=_SHORT_RUN,
        clips=16,
        sizes=(_SHORT, 768, 720),
        pro_window=2,
        notes=(_CRASHES,),
    ),
    _Row(
        "tao",
        "tracking of 302 categories, evaluated on TAO",
        "configs/videos/{size}/TAO_{size}.yaml",
        {"burst": BURST},
        {"tao_val": TAO_VAL},
        steps=_SHORT_RUN,
        clips=16,
        sizes=(_SHORT, 768, 640),
        pro_window=2,
        notes=(_CRASHES,),
    ),
    _Row(
        "lvvis",
        "large-vocabulary video instance segmentation on LV-VIS",
        "configs/videos/Lite/LVVIS.yaml; assumed for Plus and Pro",
        {"lvvis": LVVIS},
        {"lvvis_val": LVVIS_VAL},
        steps=_SHORT_RUN,
        sizes=(_SHORT, 1333, 480),
        notes=(_CRASHES,),
    ),
    _Row(
        "vos",
        "video object segmentation: the mask of the first frame is followed",
        "assumed; VOS_joint_finetune_R50.yaml of the published weights was not published",
        {"ytvos": YTVOS, "mose": MOSE},
        visual_prompt=True,
    ),
    _Row(
        "rvos",
        "referring video object segmentation on Ref-YouTube-VOS",
        "assumed; the recipe of ovis on the referring clips that the code registers",
        {"rvos": REFERRING},
        {"rvos_val": REFERRING_VAL},
        notes=(_NO_METRIC,),
    ),
    _Row(
        "bdd_track",
        "tracking on BDD100K, masks and boxes",
        "assumed; the recipe of ovis on the clips that the code registers",
        {"bdd_track_seg": BDD_MASKS, "bdd_track_box": BDD_BOXES},
        {"bdd_track_seg_val": BDD_MASKS_VAL, "bdd_track_box_val": BDD_BOXES_VAL},
    ),
    _Row(
        "uvo_video",
        "class-agnostic and COCO-named segmentation of dense videos, UVO",
        "assumed; the recipe of ovis on the clips that the code registers",
        {"uvo_video": UVO},
        {"uvo_video_val": UVO_VAL, "uvo_val": UVO_FRAMES_VAL},
    ),
)
FIRST = 5
"""Number of the first of them."""


def stages(size: str) -> tuple[Stage, ...]:
    """The stages on videos of one published size.

    Args:
        size: Lite, Plus or Pro.
    """
    return tuple(_stage(row, number, size) for number, row in enumerate(_ROWS, FIRST))


def _stage(row: _Row, number: int, size: str) -> Stage:
    pro = size == "Pro"
    minimum, most, test = row.sizes
    multiscale = {**MULTISCALE, "min_sizes": minimum, "max_size": most, "test_min_size": test}
    sources = {name: _single(source) if pro else source for name, source in row.sources.items()}
    window = {"video_window": row.pro_window} if pro else {}
    return LITE_PRETRAIN.replace(
        number=number,
        name=row.name,
        title=row.title,
        origin=row.origin.format(size=size, base="base" if size == "Lite" else size),
        notes=(_FROZEN, *row.notes, _ONE_FRAME if pro else _BOXES),
        steps=row.steps[0],
        global_batch=8 if pro else row.clips,
        micro_batch=1,
        data=Data(sources=sources, mixture=SourcePerBatch(by_aspect=True), transform=LSJ if pro else multiscale),
        validation=dict(row.validation),
        eval_every=None,
        best_metric=None,
        optim=_OPTIM,
        schedule=MultiStep(milestones=row.steps[1:], warmup_steps=1_000, warmup_factor=1e-4),
        model={"text": "frozen", "visual_prompt": row.visual_prompt, "padded_video_boxes": not pro, **window},
        init=Init(stage="joint", published=f"{HUB}/GLEE_{size}_joint.pth"),
        checkpoint_every=2_000,
    )


def _single(source: Source) -> Source:
    """As the Pro files have it: one frame a clip."""
    return source.replace(options={**source.options, "num_frames": 1})
