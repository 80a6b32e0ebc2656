"""Every key of the published configuration means something here or is refused by name, and every setting is obeyed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmcore.contract.values import Draw, Losses
from mmcore.errors import RecipeError
from mmcore.parity import Case, NotRun
from mmcore_glee.batch import GleeBatch
from mmcore_glee.config import TINY, GleeConfig
from mmcore_glee.data.augment import padding, pipeline
from mmcore_glee.data.collate import Collate
from mmcore_glee.data.samples import Sample
from mmcore_glee.data.tasks import TASKS
from mmcore_glee.model import Glee
from mmcore_glee.parity import settings
from mmcore_glee.parity.data import _pipeline
from mmcore_glee.parity.settings import FIXED, PARTS, SETTINGS, TOLD, TRANSLATED, UNREAD, WIDTH, config_of
from mmcore_glee.tokenizer import tokenise

KEYS = (Path(__file__).parent / "published_keys.txt").read_text(encoding="utf-8").split()
"""What `get_cfg` and `add_glee_config` of the published code (6f5a19d3) know."""
CONFIG = TINY.replace(num_queries=12, denoising_queries=6, mask_points=64, prompt_points=16)
SWIN = {"backbone": "swin", "swin_width": 8, "swin_depths": (2, 2, 2, 1), "swin_heads": (1, 2, 2, 4), "swin_window": 4}
SET = {"MODEL.MaskDINO.DN": "seg", "MODEL.EVA02.WINDOW_BLOCK_INDEXES": [0, 1], "MODEL.RESNETS.NUM_GROUPS": 4}
"""Other values where the double is none."""


def case(overrides: dict[str, Any], base: str = "images/Lite/base_clip_teacher_image_R50.yaml", **more: Any) -> Case:
    made = Case(Path("case"))
    made.__dict__["data"] = {"config": {"base_config": base, "overrides": overrides, **more}}
    return made


def test_every_published_key_is_of_one_kind() -> None:
    for key in KEYS:
        named = [key in kind for kind in (SETTINGS, PARTS, TRANSLATED, FIXED, (WIDTH,), TOLD)]
        assert sum(named) == 1 or (not any(named) and key.startswith((*TOLD, *UNREAD))), key


def other_than(key: str, value: Any) -> Any:
    if key in SET:
        return SET[key]
    if isinstance(value, bool):
        return not value
    return [2 * one for one in value] if isinstance(value, tuple) else (value or 0.25) * 2


def test_nothing_is_known_that_the_published_code_does_not_have() -> None:
    assert {*SETTINGS, *PARTS, *FIXED, WIDTH, *TRANSLATED} <= set(KEYS)
    for beginning in (*UNREAD, *TOLD):
        assert any(key.startswith(beginning) for key in KEYS) or beginning == "ATTENTION_ARCH", beginning


@pytest.mark.parametrize("key", SETTINGS)
def test_a_key_with_a_counterpart_changes_that_and_nothing_else(key: str) -> None:
    before, entry = config_of(case({})), SETTINGS[key]
    other = other_than(key, getattr(before, entry))
    after = config_of(case({key: other}))
    assert getattr(after, entry) == (tuple(other) if isinstance(other, list) else other)
    changed = {name for name in GleeConfig.__slots__ if getattr(before, name) != getattr(after, name)}
    assert changed - {"resnet_width"} == {entry}
    assert ("resnet_width" in changed) == (entry == "resnet_groups")


@pytest.mark.parametrize("key", PARTS)
def test_weights_of_losses_and_costs_arrive(key: str) -> None:
    before, after = config_of(case({})), config_of(case({key: 7}))
    for group in ("loss_weights", "match_costs"):
        named = PARTS[key][1] if PARTS[key][0] == group else ()
        assert getattr(after, group) == {**getattr(before, group), **dict.fromkeys(named, 7.0)}


@pytest.mark.parametrize("key", FIXED)
@pytest.mark.parametrize("size", ["Lite/a", "Plus/a", "Pro/a"])
def test_a_key_of_one_value_takes_that_and_refuses_others_by_name(key: str, size: str) -> None:
    base = f"images/{size}.yaml"
    given = FIXED[key][0]
    taken = settings.published_value(key, base) if given is settings.SAME else given
    assert config_of(case({key: taken}, base)) == config_of(case({}, base))
    with pytest.raises(NotRun, match=key.replace(".", r"\.")):
        config_of(case({key: "something else"}, base))


@pytest.mark.parametrize(
    ("given", "more", "told"),
    [
        ({"MODEL.NEW": 1}, {}, "MODEL.NEW"),
        ({"MODEL.TEXT.ARCH": "vlpencoder"}, {}, "vlpencoder"),
        ({"MODEL.RESNETS.DEPTH": 18}, {}, "18"),
        ({"MODEL.MaskDINO.NHEADS": 7}, {}, "encoder_heads"),
        ({}, {"clip_text": {"layer_norm_eps": 1e-3}}, "layer_norm_eps"),
        ({}, {"amp": True}, "amp"),
    ],
)
def test_what_has_no_counterpart_is_named(given: dict[str, Any], more: dict[str, Any], told: str) -> None:
    with pytest.raises(NotRun, match=told):
        config_of(case(given, **more))


def test_numbers_of_a_pipeline_that_are_not_read_are_named() -> None:
    assert _pipeline("multiscale", {"INPUT.MIN_SIZE_TEST": 60, "INPUT.IMAGE_SIZE": 64}).test_min_size == 60
    with pytest.raises(NotRun, match=r"INPUT\.FORMAT"):
        _pipeline("multiscale", {"INPUT.FORMAT": "BGR"})


@pytest.mark.parametrize(
    ("base", "wanted"),
    [
        ("images/Lite/base_clip_teacher_image_R50.yaml", {"text": "teacher", "visual_prompt": False}),
        ("images/Lite/base_clip_frozen_image_R50.yaml", {"text": "frozen", "visual_prompt": False}),
        ("images/Plus/Stage2_joint_training_CLIPteacher_SwinL.yaml", {"text": "teacher", "visual_prompt": True}),
        ("videos/Pro/ovis_Pro.yaml", {"text": "frozen", "video_window": 2, "backbone": "eva"}),
        ("videos/Pro/ytvis19_Pro.yaml", {"video_window": 10, "padded_video_boxes": True}),
    ],
)
def test_published_files_are_what_they_say(base: str, wanted: dict[str, Any]) -> None:
    found = settings.published_config(base)
    assert {name: getattr(found, name) for name in wanted} == wanted


@pytest.mark.parametrize(("given", "multiple"), [(32, 32), (64, 64), (0, 1), (-1, 1)])
def test_batches_are_padded_as_a_case_says(given: int, multiple: int) -> None:
    assert settings.multiple_of(case({"MODEL.MaskDINO.SIZE_DIVISIBILITY": given})) == multiple
    assert settings.multiple_of(case({"MODEL.MaskDINO.SIZE_DIVISIBILITY": -1}, "images/Pro/a.yaml")) == 32


@pytest.mark.parametrize("multiple", [16, 32, 64])
def test_a_recipe_decides_what_batches_are_padded_to(multiple: int) -> None:
    steps = pipeline({"size_divisibility": multiple})
    collate = Collate(TASKS["coco"], ("cat",), training=False, **padding(steps))
    image = torch.zeros(3, 40, 70, dtype=torch.uint8)
    sample = Sample(
        draw=Draw("a", 0, 0), image=image, image_id=0, original_size=(40, 70), labels=torch.zeros(0, dtype=torch.int64),
        boxes_xyxy=torch.zeros(0, 4), masks=None,
    )  # fmt: skip
    assert collate([sample], 0).images.shape[2:] == tuple(-(-side // multiple) * multiple for side in (40, 70))


def batch(num_objects: tuple[int, ...] = (2, 1)) -> GleeBatch:
    total, images, names = sum(num_objects), len(num_objects), ("cat", "dog", "red bus")
    generator = torch.Generator().manual_seed(3)
    ids, mask = tokenise(names)
    regions = torch.zeros(total, 64, 96, dtype=torch.uint8)
    regions[:, 8:40, 10:50] = 1
    return GleeBatch(
        source="source",
        draws=tuple(Draw("source", i, i) for i in range(images)),
        normalisers={"objects": float(total), "batches": 1.0, "text_tokens": float(mask.sum())},
        images=torch.randint(0, 256, (images, 3, 64, 96), dtype=torch.uint8, generator=generator),
        image_sizes=((64, 96),) * images,
        original_sizes=((64, 96),) * images,
        image_ids=tuple(range(images)),
        num_objects=num_objects,
        labels=torch.arange(total) % len(names),
        boxes_cxcywh=torch.rand(total, 4, generator=generator) * 0.4 + 0.3,
        masks=regions,
        task="coco",
        names=names,
        input_ids=ids,
        attention_mask=mask,
    )


def stepped(config: GleeConfig, given: GleeBatch) -> tuple[Glee, Losses]:
    torch.manual_seed(0)
    model = Glee(config).train()
    losses = model(given)
    torch.stack([loss.total for loss in losses.values()]).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    return model, losses


AUX, DN = ("_0", "_1", "_2"), ("_dn", "_dn_0", "_dn_1", "_dn_2")
KINDS = ("ce", "bbox", "giou", "mask", "dice", "conf")
ALL = {f"loss_{kind}{suffix}" for kind in KINDS for suffix in ("", "_interm", *AUX)} | {
    f"loss_{kind}{suffix}" for kind in ("ce", "bbox", "giou") for suffix in DN
}
OPTIONS: dict[str, tuple[dict[str, Any], set[str], set[str]]] = {
    "as published": ({}, set(), set()),
    "denoising of masks": ({"denoising": "seg"}, set(), {f"loss_{kind}{s}" for kind in ("mask", "dice") for s in DN}),
    "no denoising": ({"denoising": "no"}, {name for name in ALL if "_dn" in name}, set()),
    "learned queries": (
        {"two_stage": False}, {n for n in ALL if n.endswith("_interm") or n.endswith("_dn_0")}, set(),
    ),
    "levels projected again": ({"decoder_input_proj": True}, set(), set()),
    "learned contents": ({"learned_content": True}, set(), set()),
    "no first prediction": ({"initial_prediction": False}, {n for n in ALL if n.endswith("_2")}, set()),
    "last layer only": ({"deep_supervision": False}, {n for n in ALL if n[-1].isdigit()}, set()),
    "no box losses": (
        {"box_losses": False}, {n for n in ALL if ("bbox" in n or "giou" in n) and "_dn" not in n}, set(),
    ),
    "no fusion of names": ({"early_fusion": False}, set(), set()),
    "text without teacher": ({"text": "unfrozen"}, set(), set()),
    "three levels": ({"num_levels": 3}, set(), set()),
    "five levels": ({"num_levels": 5}, set(), set()),
    "groups": ({"resnet_groups": 4, "resnet_stride_in_1x1": True}, set(), set()),
    "other Swin": (SWIN | {"swin_mlp_ratio": 2.5, "swin_qkv_bias": False, "swin_patch_norm": False}, set(), set()),
    "dropout": ({"encoder_dropout": 0.5}, set(), set()),
}  # fmt: skip


@pytest.mark.parametrize(("options", "gone", "more"), OPTIONS.values(), ids=OPTIONS.keys())
def test_a_model_of_any_setting_trains_has_its_losses_and_keeps_its_weights(
    options: dict[str, Any], gone: set[str], more: set[str], tmp_path: Path
) -> None:
    config = CONFIG.replace(**options)
    model, losses = stepped(config, batch())
    assert set(losses) - {"dist_loss", "track_loss"} == ALL - gone | more
    _, nothing = stepped(config, batch((0, 0)))
    assert set(nothing) == set(losses)
    published = model.published().to_published(model.state_dict())
    state, report = model.published().to_ours(published, model.state_dict())
    assert not report.new
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    with torch.no_grad():
        found = model.eval().predict(batch((0, 0)))
    assert len(found) == 2


def test_costs_decide_the_matching() -> None:
    """A query that is right about the class against one that is right about the place."""
    given = batch((1,))
    chosen = []
    for costs in ({"label": 100.0, "box": 0.0, "giou": 0.0}, {"label": 0.0, "box": 100.0, "giou": 0.0}):
        torch.manual_seed(0)
        model = Glee(CONFIG.replace(match_costs={**costs, "mask": 0.0, "dice": 0.0})).train()
        with torch.no_grad():
            from mmcore_glee.outputs import Draws

            outputs, _ = model.run(given, Draws())
            chosen.append(int(model.criterion.match(outputs, given, Draws()).queries[0, 0]))
        final = outputs.sets["final"]
        by_class = final.logits[0, :, given.labels[0]].argmax()
        by_place = (final.boxes_cxcywh[0] - given.boxes_cxcywh[0]).abs().sum(1).argmin()
    assert chosen == [int(by_class), int(by_place)]


@pytest.mark.parametrize(
    ("entry", "value"),
    [("denoising", "masks"), ("text", "thawed"), ("match_costs", {"label": 1.0}), ("resnet_groups", 5)],
)
def test_settings_that_make_no_sense_are_refused(entry: str, value: object) -> None:
    with pytest.raises(RecipeError, match=entry):
        TINY.replace(**{entry: value})
