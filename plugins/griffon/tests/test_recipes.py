"""The recipes against a table written down from the published scripts, lists and documents."""

from itertools import pairwise

import pytest
from mmcore.contract.recipe import Stage
from mmcore.errors import RecipeError
from mmcore.runs.config import resolve
from mmcore_griffon import recipes
from mmcore_griffon.config import VARIANTS
from mmcore_griffon.stages import stages

# scripts/gemma2/*.sh: per-device batch, accumulation, rate, rate of the tower, longest sequence, steps between
# checkpoints, DeepSpeed stage, what is trained; the global batch is that of 8 GPUs.
SCRIPTS = {
    "alignment": (4, 8, 1e-3, None, 2048, 24_000, 2, {"projector"}),
    "pretrain": (2, 8, 2e-5, None, 4096, 50_000, 3, {"projector", "language", "tower"}),
    "instruct": (2, 4, 2e-5, 2e-6, 4096, 50_000, 3, {"projector", "language", "tower"}),
}
GROUPING = {"alignment": "epochs", "pretrain": "length", "instruct": "task_length", "visual-referring": "task_length"}
# scripts/datasets/*.txt, annotation by annotation
LISTS = {
    "pretrain": """
        DET objcets365_det Objects365-2023/full-images|DET coco_det coco/train2017|DET v3det_det V3DET/V3Det
        DET vg_det VG/VG_ALL|REG flicks_reg flickr30k-images|REG osprey_reg coco/train2014
        REG ref3_reg coco/train2014|REG vg_reg VG/VG_ALL|VG grefcoco_new_vg_discrete coco/train2014
        VG refcoco_vg_discrete coco/train2014|LAZY code_instruction_clean_78258k -
        LAZY math_instruction_clean_70k_ins_70_qa -|LAZY dialog_instruction_clean_120k -""",
    "instruct": """
        LAZY general_instructions instruct|DET objects365_200k Objects365-2023/full-images
        DET coco_det coco/train2017|DET v3det_det_91660 V3DET/V3Det|DET vg_det_53135 VG/VG_ALL
        REG flicks_reg_50000 flickr30k-images|REG osprey_reg_14667 coco/train2014
        REG ref3_reg_143802 coco/train2014|REG vg_reg_91380 VG/VG_ALL|VG grefcoco_mulit_vg_16758 coco/train2014
        VG grefcoco_vg_95102 2017/train2017|VG refcoco_vg_143802 coco/train2014|VG moref_hard_vg VG/VG_ALL
        VG moref_vg VG/images|RANDDET vg_randet_53134 VG/VG_ALL|RANDDET v3det_randet_91660 V3DET/V3Det""",
    "visual-referring": """
        VISJ fscd_count FSC147/images_384_VarV2|VISJ fscd_lvis_count FSCD_LVIS/images
        VISJ openimage_count OpenImages2019/data/train""",
}


def named(variant: str) -> dict[str, Stage]:
    return {stage.name: stage for stage in stages(variant)}


@pytest.mark.parametrize("variant", [name for name in VARIANTS if not name.startswith("tiny")])
@pytest.mark.parametrize("name", SCRIPTS)
def test_every_language_model_has_the_scripts_numbers(variant: str, name: str) -> None:
    stage = named(variant)[name]
    batch, accumulated, rate, tower, length, saved, zero, trained = SCRIPTS[name]
    assert (stage.micro_batch, stage.global_batch) == (batch, batch * accumulated * 8)
    assert (stage.optim.lr, stage.max_length, stage.checkpoint_every, stage.zero) == (rate, length, saved, zero)
    if variant == "v1-llama2-13b":
        trained, tower = trained - {"tower"}, None
    assert set(stage.trainable) == trained
    assert stage.optim.lr * stage.optim.multipliers.get("tower", 1.0) == pytest.approx(tower or rate)
    assert (stage.optim.weight_decay, stage.optim.betas, stage.optim.eps) == (0.0, (0.9, 0.999), 1e-8)
    assert (stage.optim.clip_grad_norm, stage.schedule.warmup_ratio, stage.schedule.kind) == (None, 0.03, "cosine")  # type: ignore[union-attr]
    assert (stage.epochs, stage.precision, stage.gradient_checkpointing, stage.keep_last) == (1, "bf16", True, 1)
    assert stage.normalise == "process"
    said = any(note.startswith("assumed") for note in stage.notes)
    assert said == ("gemma2" not in variant), "a number that is not published says so"


@pytest.mark.parametrize("name", LISTS)
def test_sources_are_those_of_the_published_lists(name: str) -> None:
    stage = named("g-gemma2-9b")[name]
    found = []
    for source in stage.data.sources.values():
        kind = "LAZY" if source.format == "LLaVA JSON" else source.format.removesuffix(" lines")
        file = str(source.annotations).removeprefix("griffon/").rpartition(".")[0]
        found.append(f"{kind} {file} {source.images or '-'}")
        assert source.weight == 1.0
    assert found == [line.strip() for line in LISTS[name].replace("|", "\n").strip().splitlines()]
    assert stage.data.mixture.kind == GROUPING[name]


def test_captions_are_conversations_though_their_file_is_called_coco() -> None:
    (captions,) = named("g-gemma2-9b")["alignment"].data.sources.values()
    assert (captions.format, "coco" in str(captions.annotations)) == ("LLaVA JSON", True)


@pytest.mark.parametrize("variant", VARIANTS)
def test_stages_follow_each_other_and_are_numbered(variant: str) -> None:
    every = stages(variant)
    assert [stage.number for stage in every] == sorted({stage.number for stage in every})
    for before, after in pairwise(every):
        assert after.init.stage == before.name or after.name == "finetune"
    assert every[0].init.published or variant.startswith("tiny")


@pytest.mark.parametrize(
    ("switches", "trainable", "frozen"),
    [
        (["freeze_llm=true"], ("projector", "tower"), ()),
        (["freeze_mm_mlp_adapter=true"], ("language", "projector", "tower"), ("projector",)),
        (
            ["freeze_mm_mlp_adapter=true", "freeze_vision_tower=true"],
            ("language", "projector", "tower"),
            ("projector", "tower"),
        ),
        (["freeze_llm=true", "freeze_vision_tower=true"], ("projector", "tower"), ("tower",)),
        (["freeze_llm=false"], ("language", "projector", "tower"), ()),
    ],
)
def test_the_documents_switches_are_recipe_patterns(switches, trainable, frozen) -> None:
    stage, _ = resolve(named("g-gemma2-9b")["finetune"], None, switches, recipes.SHORTHANDS)
    assert (stage.trainable, stage.frozen) == (trainable, frozen)


def test_a_switch_is_true_or_false() -> None:
    with pytest.raises(RecipeError) as caught:
        resolve(named("tiny")["finetune"], None, ["freeze_llm=yes please"], recipes.SHORTHANDS)
    assert "freeze_llm is a switch" in str(caught.value)
