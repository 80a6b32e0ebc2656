"""GLEE on videos: fine-tuning of the joint weights, text encoder frozen, as published; and what was only announced.

The published files for BURST and TAO, and LV-VIS of Lite, can be evaluated but not trained: the code has no vocabulary
sampling for them. Here they are sampled as LVIS is. Numbers are those of `projects/GLEE/configs/videos`.
"""

from collections.abc import Mapping
from typing import Any

from mmcore import AdamW, Data, Init, MultiStep, Source, SourcePerBatch, Stage, Validation

from mmcore_glee.recipes.lsj import LSJ
from mmcore_glee.recipes.multiscale import HUB, LITE_PRETRAIN, MULTISCALE

_SHORT = (320, 352, 392, 416, 448, 480, 512, 544, 576, 608, 640)
_AP = "segm/AP"
_LONG = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)


def _clips(annotations: str, images: str, task: str, *, frames: int = 2, reach: int = 5, **more: Any) -> Source:
    options = {"task": task, "num_frames": frames, "frame_range": reach}
    return Source(weight=1.0, format="YouTube-VIS", annotations=annotations, images=images, options=options, **more)


def _videos(annotations: str, images: str, task: str, *metrics: str, format: str = "YouTube-VIS") -> Validation:
    return Validation(metrics=metrics, annotations=annotations, images=images, format=format, options={"task": task})


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
BURST_VAL = _videos("TAO/burst_annotations/TAO_val_withlabel_ytvisformat.json", "TAO/frames/val", "burst", _AP)
TAO_VAL = _videos(
    "TAO/TAO_annotations/validation_ytvisfmt.json", "TAO/frames", "tao_video", "bbox/AP", format="YouTube-VIS boxes"
)
BDD_MASKS_VAL = _videos(
    "bdd100k/labels/seg_track_20/seg_track_val_cocoformat_uni.json",
    "bdd100k/images/seg_track_20/val",
    "bdd_track_seg",
    _AP,
)

_OPTIM = AdamW(lr=1e-4, weight_decay=0.05, multipliers={"backbone": 0.1}, clip_grad_norm=0.01)
_FROZEN = "text: the tuned encoder of the joint weights, frozen; their teacher and prompt fuser are not used"
_NO_METRIC = "validation: the published valid set has no annotations, so an evaluation writes the result file alone"
_CRASHES = "assumed: the published code stops at its first training step; names are sampled as LVIS's are"


def _stage(
    variant: str,
    number: int,
    name: str,
    title: str,
    origin: str,
    sources: Mapping[str, Source],
    validation: Mapping[str, Validation],
    *,
    steps: int,
    milestone: int,
    batch: int,
    transform: Mapping[str, Any],
    notes: tuple[str, ...] = (),
    model: Mapping[str, Any] | None = None,
) -> Stage:
    return LITE_PRETRAIN.replace(
        number=number,
        name=name,
        title=title,
        origin=origin,
        notes=(_FROZEN, *notes),
        steps=steps,
        global_batch=batch,
        micro_batch=1,
        data=Data(sources=dict(sources), mixture=SourcePerBatch(by_aspect=True), transform=dict(transform)),
        validation=dict(validation),
        eval_every=None,
        best_metric=None,
        optim=_OPTIM,
        schedule=MultiStep(milestones=(milestone,), warmup_steps=1_000, warmup_factor=1e-4),
        model={"text": "frozen", "visual_prompt": False, **(model or {})},
        init=Init(stage="joint", published=f"{HUB}/GLEE_{variant}_joint.pth"),
        checkpoint_every=2_000,
    )


def _sizes(minimum: tuple[int, ...], most: int, test: int) -> dict[str, Any]:
    """The published clip pipeline: crops without a resize before them, one length and one flip a clip."""
    return {**MULTISCALE, "min_sizes": minimum, "max_size": most, "test_min_size": test}


def _single(source: Source) -> Source:
    """As the Pro files have it: one frame a clip, which has no track loss."""
    return source.replace(options={**source.options, "num_frames": 1})


def stages(variant: str) -> tuple[Stage, ...]:
    """The stages of one published size, from number 5 on.

    Args:
        variant: Lite, Plus or Pro.
    """
    pro = variant == "Pro"
    one_frame = ("frames: one a clip as in the published file, so that there is no track loss",) if pro else ()
    window = {"video_window": 2} if pro else {}

    def sized(minimum: tuple[int, ...], most: int, test: int) -> Mapping[str, Any]:
        return LSJ if pro else _sizes(minimum, most, test)

    def clip(source: Source) -> Source:
        return _single(source) if pro else source

    suffix = {"Lite": "base", "Plus": "Plus", "Pro": "Pro"}[variant]
    found = [
        _stage(
            variant,
            5,
            "ytvis19",
            "video instance segmentation on YouTube-VIS 2019",
            f"configs/videos/{variant}/ytvis19_{suffix}.yaml",
            {"ytvis19": clip(YTVIS19)},
            {"ytvis19_val": YTVIS19_VAL},
            steps=8_000,
            milestone=6_000,
            batch=8,
            transform=sized(_SHORT, 1333, 480),
            notes=(_NO_METRIC, *one_frame),
        ),
        _stage(
            variant,
            6,
            "ytvis21",
            "video instance segmentation on YouTube-VIS 2021",
            "assumed; the recipe of ytvis19 on the other data set, which upstream registers without a file for it",
            {"ytvis21": clip(YTVIS21)},
            {"ytvis21_val": YTVIS21_VAL},
            steps=8_000,
            milestone=6_000,
            batch=8,
            transform=sized(_SHORT, 1333, 480),
            notes=(_NO_METRIC, *one_frame),
        ),
        _stage(
            variant,
            7,
            "ovis",
            "video instance segmentation under occlusion on OVIS",
            f"configs/videos/{variant}/ovis_{suffix}.yaml",
            {"ovis": clip(OVIS)},
            {"ovis_val": OVIS_VAL},
            steps=18_000,
            milestone=12_000,
            batch=8,
            transform=sized(_LONG, 1333, 720),
            notes=(_NO_METRIC, *one_frame),
            model=window,
        ),
        _stage(
            variant,
            8,
            "burst",
            "open-world tracking on BURST",
            f"configs/videos/{variant}/BURST_{variant}.yaml",
            {"burst": clip(BURST)},
            {"burst_val": BURST_VAL},
            steps=8_000,
            milestone=6_000,
            batch=8 if pro else 16,
            transform=sized(_SHORT, 768, 720),
            notes=(_CRASHES, *one_frame),
            model=window,
        ),
        _stage(
            variant,
            9,
            "tao",
            "tracking of 302 categories, evaluated on TAO",
            f"configs/videos/{variant}/TAO_{variant}.yaml",
            {"burst": clip(BURST)},
            {"tao_val": TAO_VAL},
            steps=8_000,
            milestone=6_000,
            batch=8 if pro else 16,
            transform=sized(_SHORT, 768, 640),
            notes=(_CRASHES, *one_frame),
            model=window,
        ),
        _stage(
            variant,
            10,
            "lvvis",
            "large-vocabulary video instance segmentation on LV-VIS",
            "configs/videos/Lite/LVVIS.yaml" if variant == "Lite" else "assumed; the recipe of Lite",
            {"lvvis": clip(LVVIS)},
            {"lvvis_val": LVVIS_VAL},
            steps=8_000,
            milestone=6_000,
            batch=8,
            transform=sized(_SHORT, 1333, 480),
            notes=(_CRASHES, *one_frame),
        ),
        _stage(
            variant,
            11,
            "vos",
            "video object segmentation: the mask of the first frame is followed",
            "assumed; VOS_joint_finetune_R50.yaml of the published weights was not published",
            {"ytvos": clip(YTVOS), "mose": clip(MOSE)},
            {},
            steps=18_000,
            milestone=12_000,
            batch=8,
            transform=sized(_LONG, 1333, 720),
            notes=one_frame,
            model={"visual_prompt": True},
        ),
        _stage(
            variant,
            12,
            "rvos",
            "referring video object segmentation on Ref-YouTube-VOS",
            "assumed; the recipe of ovis on the referring clips that the code registers",
            {"rvos": clip(REFERRING)},
            {},
            steps=18_000,
            milestone=12_000,
            batch=8,
            transform=sized(_LONG, 1333, 720),
            notes=one_frame,
        ),
        _stage(
            variant,
            13,
            "bdd_track",
            "tracking on BDD100K, masks and boxes",
            "assumed; the recipe of ovis on the clips that the code registers",
            {"bdd_track_seg": clip(BDD_MASKS), "bdd_track_box": clip(BDD_BOXES)},
            {"bdd_track_seg_val": BDD_MASKS_VAL},
            steps=18_000,
            milestone=12_000,
            batch=8,
            transform=sized(_LONG, 1333, 720),
            notes=one_frame,
        ),
    ]
    return tuple(found)
