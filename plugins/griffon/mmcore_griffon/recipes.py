"""The published Griffon stages as data, for every language model, and the tiny ones that run on a laptop.

Numbers come from `scripts/gemma2/*.sh` and `scripts/datasets/*.txt` of jefferyZhan/Griffon (commit 9866875) and from
docs/TRAIN_README.md. The scripts of LLaMA2 and Qwen2.5 were promised and never published: their stages have the numbers
of Gemma 2's, and say so. Global batches are those of one node of 8 GPUs.
"""

from collections.abc import Mapping
from typing import Any

from mmcore import AdamW, ByLength, ByTask, Cosine, Data, Init, Source, Stage, Validation, WholeEpochs

CLIP_336, CLIP_224 = "hf://openai/clip-vit-large-patch14-336", "hf://openai/clip-vit-large-patch14"
LINES = "griffon"
"""Folder of the annotation files (JefferyZhan/Griffon-G-CCMD-8M) below the data root; assumed."""
GENERAL, LOCALISATION, PROMPTED = "general", "localisation", "visual-prompt"
"""The tasks that the third stage keeps apart; records without a picture are a fourth."""


def format_of(kind: str) -> str:
    """The annotation format of a task type."""
    return "LLaVA JSON" if kind == "LAZY" else f"{kind} lines"


def _lines(kind: str, file: str, images: str, **more: Any) -> Source:
    """One line of a published list."""
    return Source(weight=1.0, format=format_of(kind), annotations=f"{LINES}/{file}", images=images, **more)


def _grouped(sources: Mapping[str, Source]) -> dict[str, Source]:
    """The sources with the task that each belongs to."""
    tasks = {"LLaVA JSON": GENERAL, "VISJ lines": PROMPTED}
    return {name: one.replace(group=tasks.get(one.format, LOCALISATION)) for name, one in sources.items()}


PRETRAIN_LIST = {
    "objects365": _lines("DET", "objcets365_det.jsonl", "Objects365-2023/full-images"),  # spelt as published
    "coco": _lines("DET", "coco_det.jsonl", "coco/train2017"),
    "v3det": _lines("DET", "v3det_det.jsonl", "V3DET/V3Det"),
    "vg": _lines("DET", "vg_det.jsonl", "VG/VG_ALL"),
    "flickr_reg": _lines("REG", "flicks_reg.jsonl", "flickr30k-images"),
    "osprey_reg": _lines("REG", "osprey_reg.jsonl", "coco/train2014"),
    "refcoco_reg": _lines("REG", "ref3_reg.jsonl", "coco/train2014"),
    "vg_reg": _lines("REG", "vg_reg.jsonl", "VG/VG_ALL"),
    "grefcoco_vg": _lines("VG", "grefcoco_new_vg_discrete.jsonl", "coco/train2014"),
    "refcoco_vg": _lines("VG", "refcoco_vg_discrete.jsonl", "coco/train2014"),
    "code": _lines("LAZY", "code_instruction_clean_78258k.json", ""),
    "maths": _lines("LAZY", "math_instruction_clean_70k_ins_70_qa.json", ""),
    "dialogue": _lines("LAZY", "dialog_instruction_clean_120k.json", ""),
}  # scripts/datasets/pretrain.txt
INSTRUCT_LIST = {
    "general": _lines("LAZY", "general_instructions.json", "instruct"),
    "objects365": _lines("DET", "objects365_200k.jsonl", "Objects365-2023/full-images"),
    "coco": _lines("DET", "coco_det.jsonl", "coco/train2017"),
    "v3det": _lines("DET", "v3det_det_91660.jsonl", "V3DET/V3Det"),
    "vg": _lines("DET", "vg_det_53135.jsonl", "VG/VG_ALL"),
    "flickr_reg": _lines("REG", "flicks_reg_50000.jsonl", "flickr30k-images"),
    "osprey_reg": _lines("REG", "osprey_reg_14667.jsonl", "coco/train2014"),
    "refcoco_reg": _lines("REG", "ref3_reg_143802.jsonl", "coco/train2014"),
    "vg_reg": _lines("REG", "vg_reg_91380.jsonl", "VG/VG_ALL"),
    "grefcoco_multi_vg": _lines("VG", "grefcoco_mulit_vg_16758.jsonl", "coco/train2014"),
    "grefcoco_vg": _lines("VG", "grefcoco_vg_95102.jsonl", "2017/train2017"),
    "refcoco_vg": _lines("VG", "refcoco_vg_143802.jsonl", "coco/train2014"),
    "moref_hard_vg": _lines("VG", "moref_hard_vg.jsonl", "VG/VG_ALL"),
    "moref_vg": _lines("VG", "moref_vg.jsonl", "VG/images"),
    "vg_absent": _lines("RANDDET", "vg_randet_53134.jsonl", "VG/VG_ALL"),
    "v3det_absent": _lines("RANDDET", "v3det_randet_91660.jsonl", "V3DET/V3Det"),
}  # scripts/datasets/sft.txt
COUNTING_LIST = {
    "fsc147": _lines("VISJ", "fscd_count.jsonl", "FSC147/images_384_VarV2"),
    "fscd_lvis": _lines("VISJ", "fscd_lvis_count.jsonl", "FSCD_LVIS/images"),
    "openimages": _lines("VISJ", "openimage_count.jsonl", "OpenImages2019/data/train"),
}  # scripts/datasets/visual_tokenizer.txt, without its 71 sets of CT-datasetv2

VALIDATION = {
    "coco_val": Validation(
        metrics=("bbox/AP", "bbox/AP50", "bbox/AP75"),
        format="COCO boxes",
        annotations="coco/annotations/instances_val2017.json",
        images="coco/val2017",
    ),
    **{
        f"{name.lower().replace('+', 'p')}_{split.lower()}": Validation(
            metrics=("accuracy@0.5",),
            format="REC lines",
            annotations=f"{LINES}/REC_{name}_{by}_{split}.jsonl",
            images="coco/train2014",
            batch_size=8,
        )
        for name, by, splits in (
            ("refcoco", "unc", ("val", "testA", "testB")),
            ("refcoco+", "unc", ("val", "testA", "testB")),
            ("refcocog", "umd", ("val", "test")),
        )
        for split in splits
    },
}
"""What griffon/eval evaluates; several expressions are answered together, which changes no answer beyond rounding."""

ALIGNMENT = Stage(
    number=1,
    name="alignment",
    title="captions: the projector is trained, tower and language model are frozen",
    origin="scripts/gemma2/alignment.sh",
    notes=(
        "the script's data file is taken for a detection file by its name and cannot be read; here it is what it is",
        "no gradient clipping: zero2.json has no such entry, and the trainer's is without effect under DeepSpeed",
        "normalise process: every rank divides by its own tokens, then ranks are averaged",
    ),
    epochs=1,
    global_batch=256,  # 4 x 8 accumulated x 8 GPUs
    micro_batch=4,
    data=Data(
        sources={
            "sharegpt4v": Source(
                weight=1.0,
                format="LLaVA JSON",
                annotations="sharegpt4v/share-captioner_coco_lcs_sam_1246k_1107.json",
                images="sharegpt4v",
            )
        },
        mixture=WholeEpochs(),
    ),
    optim=AdamW(lr=1e-3),
    schedule=Cosine(warmup_ratio=0.03),
    normalise="process",
    precision="bf16",
    gradient_checkpointing=True,
    trainable=("projector",),
    loss_weights={"text": 1.0},
    max_length=2048,
    model={"template": "plain"},
    zero=2,
    checkpoint_every=24_000,
    keep_last=1,
)

PRETRAIN = ALIGNMENT.replace(
    number=2,
    name="pretrain",
    title="localisation and text at high resolution: tower, projector and language model",
    origin="scripts/gemma2/pretrain.sh, scripts/datasets/pretrain.txt",
    notes=(
        "--multi_path names a list that does not exist; the one of scripts/datasets is meant",
        "the published sampler leaves the last global batch of each modality out of an epoch; here all are drawn",
        *ALIGNMENT.notes[1:],
    ),
    global_batch=128,  # 2 x 8 x 8
    micro_batch=2,
    data=Data(sources=PRETRAIN_LIST, mixture=ByLength(by_modality=True)),
    validation=VALIDATION,
    optim=AdamW(lr=2e-5),
    trainable=("language", "projector", "tower"),
    max_length=4096,
    model={},
    init=Init(stage="alignment"),
    zero=3,
    checkpoint_every=50_000,
)

INSTRUCT = PRETRAIN.replace(
    number=3,
    name="instruct",
    title="instruction tuning: tower at a tenth of the rate, projector and language model",
    origin="scripts/gemma2/sft.sh, scripts/datasets/sft.txt",
    notes=(
        "--multi_path names a list that does not exist; the documents name pretrain.txt where sft.txt is meant",
        "the published sampler stops where a task is missing, and leaves visual prompts out; here any tasks will do",
        *ALIGNMENT.notes[1:],
    ),
    global_batch=64,  # 2 x 4 x 8
    data=Data(sources=_grouped(INSTRUCT_LIST), mixture=ByTask()),
    optim=AdamW(lr=2e-5, multipliers={"tower": 0.1}),  # --mm_vision_tower_lr 2e-6
    init=Init(stage="pretrain"),
)

VISUAL_REFERRING = INSTRUCT.replace(
    number=4,
    name="visual-referring",
    title="visual prompts: the two layers of the region tokenizer are trained",
    origin="docs/TRAIN_README.md, scripts/datasets/visual_tokenizer.txt; visual_referring.sh is not published",
    notes=(
        "assumed: batch, lengths and schedule of the third stage, a rate of 1e-4",
        "the list's 71 sets of CT-datasetv2 are left out here: --set data.list=visual_tokenizer.txt takes all of them",
        *ALIGNMENT.notes[1:],
    ),
    data=Data(sources=_grouped(COUNTING_LIST), mixture=ByTask()),
    validation={},
    optim=AdamW(lr=1e-4),
    trainable=("region.projector",),
    init=Init(stage="instruct", published=CLIP_224),
)

FINETUNE = INSTRUCT.replace(
    number=5,
    name="finetune",
    title="own data (--own FILE): boxes, expressions, descriptions, conversations",
    origin="assumed; model and rates of instruction tuning",
    notes=(
        "assumed: 1,000 steps of 32 records at half the published rate, the batch being half",
        "assumed: evaluated and saved five times, whatever the number of steps",
        "freeze_llm, freeze_mm_mlp_adapter and freeze_vision_tower are the documents' switches: --set freeze_llm=true",
    ),
    epochs=None,
    steps=1_000,
    global_batch=32,
    data=Data(sources={}, mixture=WholeEpochs(source_per="sample")),
    validation={},
    eval_every=0.2,
    optim=AdamW(lr=1e-5, multipliers={"tower": 0.1}),
    normalise="global",
    init=Init(stage="instruct"),
    checkpoint_every=0.2,
)

SHORTHANDS: Mapping[str, Mapping[str, Any]] = {
    "freeze_llm": {"trainable": ("projector", "tower"), "optim.multipliers": {}},
    "freeze_mm_mlp_adapter": {"frozen": ("projector",)},
    "freeze_vision_tower": {"frozen": ("tower",), "optim.multipliers": {}},
}
