"""Numbers of the Pro, video and ODinW stages, written down from the published YAML files and the registered names."""

import pytest
from mmcore.runs.plugin import OpenedPlugin
from mmcore_glee import vocabulary
from mmcore_glee.config import VARIANTS
from mmcore_glee.data.tasks import TASKS
from mmcore_glee.denoising import TABLE_OF_TASK, TABLES
from mmcore_glee.recipes import stages
from mmcore_glee.recipes.odinw import SETS

# stage: sources and their weights
PRO_SOURCES = {
    "pretrain": {"obj365": 1.0, "openimage": 1.0},
    "joint": {
        **{"openimage": 1.5, "obj365": 1.5, "lvis": 1.5, "vg": 1.0, "vg_regions": 1.0, "coco": 1.5, "refcoco": 2.5},
        **{"sa1b": 2.5, "uvo": 0.2, "bdd_det": 0.1, "bdd_inst": 0.05},
        **{"image_yt19": 0.3, "image_yt21": 0.3, "image_o": 0.3, "refytb": 0.3},
    },
    "scaleup": {
        **{"openimage": 1.5, "obj365": 1.5, "lvis": 1.5, "vg": 1.0, "vg_regions": 1.0, "coco": 1.5, "refcoco": 2.5},
        **{"grit": 5.0, "sa1b": 5.0, "uvo": 0.2, "bdd_det": 0.1, "bdd_inst": 0.05},
        **{"image_yt19": 0.3, "image_yt21": 0.3, "image_o": 0.3, "refytb": 0.2},
    },
}
# stage: steps, milestone, clips a step (Pro), frames (Pro), range, shortest sides, longest side, side at inference
VIDEO = {
    "ytvis19": (8_000, 6_000, (8, 8), (2, 1), 5, (320, 640), 1333, 480),
    "ovis": (18_000, 12_000, (8, 8), (2, 1), 10, (480, 800), 1333, 720),
    "burst": (8_000, 6_000, (16, 8), (4, 1), 12, (320, 640), 768, 720),
    "tao": (8_000, 6_000, (16, 8), (4, 1), 12, (320, 640), 768, 640),
    "lvvis": (8_000, 6_000, (8, 8), (2, 1), 5, (320, 640), 1333, 480),
}


def named(variant: str, name: str):
    return next(stage for stage in stages(variant) if stage.name == name)


@pytest.mark.parametrize("name", PRO_SOURCES)
def test_pro_on_images(name: str) -> None:
    stage = named("pro", name)
    assert {key: source.weight for key, source in stage.data.sources.items()} == PRO_SOURCES[name]
    assert (stage.steps, stage.schedule.milestones, stage.schedule.warmup_steps) == (500_000, (400_000,), 1_000)
    assert (stage.schedule.warmup_factor, stage.optim.lr, stage.optim.weight_decay) == (1e-2, 1e-4, 0.1)
    assert (stage.global_batch, stage.micro_batch) == (128, 1 if name == "pretrain" else 2)
    assert stage.optim.clip_grad_norm == 0.01
    assert stage.checkpoint_every == 20_000
    assert stage.eval_every == (10_000 if name == "pretrain" else 20_000)
    assert "text_encoder" not in stage.optim.multipliers
    assert stage.data.transform["image_size"] == 1536
    assert stage.gradient_checkpointing


@pytest.mark.parametrize("variant", ["lite", "plus", "pro"])
@pytest.mark.parametrize("name", VIDEO)
def test_stages_on_videos(variant: str, name: str) -> None:
    steps, milestone, clips, frames, reach, (low, high), longest, test = VIDEO[name]
    pro, stage = variant == "pro", named(variant, name)
    assert (stage.steps, stage.schedule.milestones, stage.global_batch) == (steps, (milestone,), clips[pro])
    assert (stage.schedule.warmup_steps, stage.schedule.warmup_factor) == (1_000, 1e-4)
    assert (stage.optim.lr, stage.optim.weight_decay, stage.optim.multipliers) == (1e-4, 0.05, {"backbone": 0.1})
    assert stage.model["text"] == "frozen"
    assert stage.model["visual_prompt"] is False
    assert stage.checkpoint_every == 2_000
    (source,) = stage.data.sources.values()
    assert (source.options["num_frames"], source.options["frame_range"]) == (frames[pro], reach)
    window = {"ovis": 2, "burst": 2, "tao": 2}.get(name, 10) if pro else 10
    assert VARIANTS[variant].replace(**stage.model).video_window == window
    transform = stage.data.transform
    if pro:
        assert (transform["pipeline"], transform["image_size"]) == ("lsj", 1536)
    else:
        assert (min(transform["min_sizes"]), max(transform["min_sizes"])) == (low, high)
        assert (transform["max_size"], transform["test_min_size"], transform["crop_range"]) == (
            longest,
            test,
            (384, 600),
        )


@pytest.mark.parametrize("variant", ["lite", "plus", "pro", "tiny"])
def test_stages_count_from_one_and_every_task_can_be_noised(variant: str) -> None:
    numbers = [stage.number for stage in stages(variant)]
    assert len(set(numbers)) == len(numbers)
    for stage in stages(variant):
        for entry in (*stage.data.sources.values(), *stage.validation.values()):
            task = TASKS[entry.options["task"]]
            assert task.denoising_classes <= TABLES[TABLE_OF_TASK[task.name]]
            assert (entry.format in ("YouTube-VIS", "YouTube-VIS boxes", "Ref-YouTube-VOS")) == task.clips


def test_thirteen_sets_in_the_wild_under_their_registered_names() -> None:
    stage = named("lite", "odinw")
    assert set(stage.data.sources) == {name for name in vocabulary.known_lists() if name.startswith("odinw13_")}
    assert len(SETS) == 13
    places = {name: (val.annotations, val.images) for name, val in stage.validation.items()}
    none = "annotations_without_background.json"
    assert places["odinw13_Pistols_val"] == (
        f"odinw/dataset/pistols/export/val_{none}",
        "odinw/dataset/pistols/export",
    )
    assert places["odinw13_EgoHands_val"][1] == "odinw/dataset/EgoHands/generic/mini_val"
    drone = "odinw/dataset/AerialMaritimeDrone/large/valid"
    assert places["odinw13_AerialDrone_val"] == (f"{drone}/{none}", drone)


def test_stages_are_listed_by_number_whatever_order_a_family_names_them_in() -> None:
    opened = OpenedPlugin.open("glee", ())
    for variant in ("lite", "tiny"):
        numbers = [stage.number for stage in opened.stages(variant)]
        assert numbers == sorted(stage.number for stage in stages(variant))
