"""The recipes' numbers are those of the reference, written down here a second time and not read from the recipes."""

import re
from pathlib import Path
from typing import Any

import pytest
from mmcore.contract.mixture import ByKind
from mmcore.train.optim import freeze
from mmcore.weights.skeleton import skeleton
from mmcore_glamm.config import TINY
from mmcore_glamm.model import Glamm
from mmcore_glamm.recipes import stages

KINDS = {"cap": 0.15, "reg": 0.40, "seg": 0.45}
SEMANTIC = ("ade20k", "cocostuff", "pascal_part", "paco_lvis", "mapillary")
REFER = ("refcoco", "refcoco_plus", "refcocog")
GCG_VAL = {"flickr_gcg_val", "refcocog_gcg_val", "psg_gcg_val"}


def shared(names: tuple[str, ...], rate: float) -> dict[str, float]:
    return {name: rate / len(names) for name in names}


def grounded(refcocog: float, psg: float, flickr: float, grandf: float) -> dict[str, float]:
    return {"refcocog_gcg": refcocog, "psg_gcg": psg, "flickr_gcg": flickr, "grandf_gcg": grandf}


# reference/glamm.md, 5.3: number, epochs x steps, rates, validation in training, what chooses the best
TABLE: dict[str, tuple[int, int | None, dict[str, float], set[str], str | None]] = {
    "pretrain": (1, 25_000, {"grand_captions": 1, "grand_regions": 1, "grand_expressions": 1}, set(), None),
    "gcg": (2, 10 * 500, {**shared(SEMANTIC, 1), **grounded(3, 3, 3, 1)}, GCG_VAL, "flickr_gcg_val/gIoU"),
    "gcg-script": (8, 10 * 500, {**shared(SEMANTIC, 3), **grounded(9, 9, 9, 1)}, GCG_VAL, "flickr_gcg_val/gIoU"),
    "regcap-refcocog": (3, 5 * 500, {"refcocog_reg": 1}, {"refcocog_reg_val"}, "refcocog_reg_val/ce"),
    "regcap-vg": (4, 5 * 500, {"visual_genome_reg": 1}, {"visual_genome_reg_val"}, "visual_genome_reg_val/ce"),
    "refseg": (5, 5 * 350, shared(REFER, 1), {"refcocog_seg_val"}, "refcocog_seg_val/gIoU"),
    "refseg-passes": (
        9,
        None,
        {"refcoco": 16_994, "refcoco_plus": 16_992, "refcocog": 21_899},
        {"refcocog_seg_val"},
        "refcocog_seg_val/gIoU",
    ),
    "combined": (
        6,
        10 * 500,
        {
            **{"coco_captions": 1, "llava_instruct": 2},
            **{"refcoco_reg": 1, "refcoco_plus_reg": 1, "refcocog_reg": 1, "visual_genome_reg": 1, "flickr_reg": 1},
            **shared(SEMANTIC, 4),
            **shared((*REFER, "refclef"), 3),
            **grounded(2, 2, 2, 1),
        },
        GCG_VAL,
        "flickr_gcg_val/ce",
    ),
    "combined-defaults": (
        10,
        10 * 500,
        {
            **{"coco_captions": 1, "llava_instruct": 1},
            **{"refcoco_reg": 1, "refcoco_plus_reg": 1, "refcocog_reg": 1, "visual_genome_reg": 1},
            **shared(SEMANTIC, 5),
            **shared((*REFER, "refclef"), 4),
            **grounded(3, 3, 3, 1),
        },
        {"coco_captions_val", "refcocog_reg_val", "refcocog_seg_val"},
        "coco_captions_val/ce",
    ),
}
# reference/glamm.md, 5.1 and 3.5
COMMON: dict[str, Any] = {
    "global_batch": 8 * 2 * 10,
    "micro_batch": 2,
    "precision": "bf16",
    "zero": 2,
    "max_length": 1536,
    "normalise": "process",
    "gradient_checkpointing": True,
    "loss_weights": {"text": 1.0, "mask_bce": 2.0, "mask_dice": 0.5},
    "trainable": (
        "language.lm_head",
        "language.model.embed_tokens",
        "region_encoder",
        "sam.mask_decoder",
        "seg_projection",
    ),
}
FILES = {
    "GranDf/annotations/train/GranDf_HA_GCG_train.json": "GranDf_HA_images/train",
    "GranDf/annotations/train/OpenPsgGCG_train.json": "coco_2017/train2017",
    "GranDf/annotations/train/RefCOCOg_GCG_train.json": "coco_2014/train2014",
    "GranDf/annotations/train/flickr_mergedGT_GCG_train.json": "flikcr_30k/train",
    "Semantic_Segm/ade20k/annotations/training": "Semantic_Segm/ade20k/images/training",
    "Semantic_Segm/coco_stuff/train2017": "coco_2017/train2017",
    "Semantic_Segm/pascal_part/train.json": "Semantic_Segm/pascal_part/VOCdevkit/VOC2010/JPEGImages",
    "Semantic_Segm/paco_lvis/annotations/paco_lvis_v1_train.json": "coco_2017",
    "Semantic_Segm/mapillary/training/v2.0/labels": "Semantic_Segm/mapillary/training/images",
    "Refer_Segm/refcoco/refs(unc).p": "coco_2014/train2014",
    "Refer_Segm/refcoco+/refs(unc).p": "coco_2014/train2014",
    "Refer_Segm/refcocog/refs(umd).p": "coco_2014/train2014",
    "Refer_Segm/refclef/refs(unc).p": "Refer_Segm/images/saiapr_tc-12",
    "RefCoco_Reg/mdetr_annotations/finetune_refcoco_train.json": "coco_2014/train2014",
    "RefCoco_Reg/mdetr_annotations/finetune_refcoco+_train.json": "coco_2014/train2014",
    "RefCoco_Reg/mdetr_annotations/finetune_refcocog_train.json": "coco_2014/train2014",
    "RefCoco_Reg/mdetr_annotations/final_flickr_mergedGT_train.json": "flikcr_30k/train",
    "visual_genome/train.json": "visual_genome/images",
    "coco_2017/annotations/captions_train2017.json": "coco_2017/train2017",
    "llava_dataset/llava_instruct_150k.json": "coco_2017/train2017",
}
"""docs/datasets.md: annotations -> images."""
STAGES = {stage.name: stage for stage in stages("7b")}


def test_every_documented_command_has_its_recipe() -> None:
    assert STAGES.keys() == TABLE.keys() | {"finetune"}


@pytest.mark.parametrize("name", TABLE)
def test_a_recipe_is_that_of_the_reference(name: str) -> None:
    stage, (number, steps, rates, validation, best) = STAGES[name], TABLE[name]
    assert (stage.number, stage.steps, stage.epochs) == (number, steps, 5.0 if steps is None else None)
    assert {one: source.weight for one, source in stage.data.sources.items()} == pytest.approx(rates)
    assert {one for one, entry in stage.validation.items() if entry.training} == validation
    assert stage.best_metric == best
    if isinstance(stage.data.mixture, ByKind):
        groups = {str(source.group) for source in stage.data.sources.values()}
        assert stage.data.mixture.weights == {kind: KINDS[kind] for kind in groups}


@pytest.mark.parametrize("name", TABLE)
def test_what_all_commands_share(name: str) -> None:
    stage = STAGES[name]
    assert {key: getattr(stage, key) for key in COMMON} == COMMON
    optim, lora, schedule = stage.optim, stage.lora, stage.schedule
    assert (optim.lr, optim.betas, optim.eps, optim.weight_decay) == (3e-4, (0.9, 0.95), 1e-8, 0.0)
    assert optim.clip_grad_norm == 1.0
    assert lora is not None
    assert (lora.rank, lora.alpha, lora.dropout, lora.targets) == (8, 16.0, 0.05, ("q_proj", "v_proj"))
    assert (schedule.kind, schedule.warmup_steps, schedule.warmup_factor) == ("linear", 100, 0.0)


def test_annotations_and_images_lie_where_the_documents_say() -> None:
    for name in ("gcg", "combined"):
        for source in STAGES[name].data.sources.values():
            first = source.annotations if isinstance(source.annotations, str) else source.annotations[0]
            assert FILES[first] == source.images


def test_the_published_protocols_are_left_to_eval() -> None:
    asked = {name for stage in STAGES.values() for name, entry in stage.validation.items() if not entry.training}
    splits = {f"{name}_{split}" for name in REFER[:2] for split in ("val", "testA", "testB")}
    captions = {"gcg_val", "gcg_test", "refcocog_captions", "visual_genome_captions"}
    assert asked == splits | {"refcocog_val", "refcocog_test"} | captions


def test_validation_in_training_takes_the_first_thousand() -> None:
    for stage in STAGES.values():
        assert all(entry.options["first"] == 1000 for entry in stage.validation.values() if entry.training)


def test_without_adapters_language_layers_and_projector_train_in_full() -> None:
    """As `--lora_r 0` in the released trainer, by the settings that the README prints."""
    printed = re.sub(r"\s+", " ", (Path(__file__).parents[1] / "README.md").read_text())
    named = re.search(r'"trainable=\[([^]]+)\]"', printed)
    assert named is not None
    stage = STAGES["gcg"].replace(lora=None, trainable=tuple(named[1].split(", ")))
    with skeleton():
        model = Glamm(TINY)
    freeze(model, stage)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert {name for name in frozen if name.startswith("language.")} == {"language.model.norm.weight"}
    assert {".".join(name.split(".")[:2]) for name in frozen if name.startswith("sam.")} == {
        "sam.image_encoder",
        "sam.prompt_encoder",
    }
    assert not [name for name in frozen if name.startswith(("projector", "region_encoder", "seg_projection"))]
    assert all(name in frozen for name, _ in model.named_parameters() if name.startswith("tower."))
