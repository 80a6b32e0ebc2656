"""The whole model at the tiny size: losses, gradients, texts, prompts, predictions and weights."""

import dataclasses

import pytest
import torch
from mmcore.contract.recipe import Lora
from mmcore.contract.values import Draw, Losses
from mmcore.errors import RecipeError, WeightsError
from mmcore.train.lora import add_lora, is_adapter
from mmcore.train.optim import freeze
from mmcore.train.recompute import recompute
from mmcore.weights.files import write_safetensors
from mmcore_glee.batch import GleeBatch
from mmcore_glee.config import LITE, TINY
from mmcore_glee.model import Glee, build
from mmcore_glee.outputs import Draws
from mmcore_glee.recipes import stages
from mmcore_glee.tokenizer import MAX_TOKENS, tokenise
from torch import Tensor

SWIN = {"backbone": "swin", "swin_width": 8, "swin_depths": (2, 2, 2, 1), "swin_heads": (1, 2, 2, 4), "swin_window": 4}
NAMES = ("cat", "dog", "red bus", "traffic light")
CONFIG = TINY.replace(num_queries=12, denoising_queries=6, mask_points=64, prompt_points=16)


def batch(num_objects: tuple[int, ...] = (2, 1), *, masks: bool = True, task: str = "coco") -> GleeBatch:
    total, images = sum(num_objects), len(num_objects)
    generator = torch.Generator().manual_seed(3)
    grounding = task == "grounding"
    expressions = tuple(f"the dog number {i}" for i in range(images))
    ids, mask = tokenise(expressions, MAX_TOKENS) if grounding else tokenise(NAMES)
    regions = torch.zeros(total, 64, 96, dtype=torch.uint8)
    for i, region in enumerate(regions):
        region[8 * i : 8 * i + 24, 10 : 40 + i] = 1
    return GleeBatch(
        source="source",
        draws=tuple(Draw("source", i, i) for i in range(images)),
        normalisers={
            "objects": float(total),
            "batches": 1.0,
            "text_tokens": 0.0 if grounding else float(mask.sum()),
        },
        images=torch.randint(0, 256, (images, 3, 64, 96), dtype=torch.uint8, generator=generator),
        image_sizes=((64, 96), (50, 70), (64, 64))[:images],
        original_sizes=((128, 192), (100, 140), (64, 64))[:images],
        image_ids=tuple(range(images)),
        num_objects=num_objects,
        labels=torch.zeros(total, dtype=torch.int64) if grounding else torch.arange(total) % len(NAMES),
        boxes_cxcywh=torch.rand(total, 4, generator=generator) * 0.4 + 0.3,
        masks=regions if masks else None,
        task=task,
        names=() if grounding else NAMES,
        input_ids=ids,
        attention_mask=mask,
        expressions=expressions if grounding else None,
    )


def prompted(mode: str = "mask") -> GleeBatch:
    given = batch((1, 1))
    return dataclasses.replace(given, prompt_masks=given.masks, prompt_mode=mode)


@pytest.fixture(scope="module")
def model() -> Glee:
    torch.manual_seed(0)
    return Glee(CONFIG)


def total(losses: Losses, given: GleeBatch) -> Tensor:
    return torch.stack([loss.total / max(given.normalisers[loss.per], 1.0) for loss in losses.values()]).sum()


def step(model: Glee, given: GleeBatch, seed: int = 0) -> tuple[Losses, set[str]]:
    """Losses, and the names of the parameters that a gradient reached."""
    model.zero_grad(set_to_none=True)
    torch.manual_seed(seed)
    losses = model.train()(given)
    total(losses, given).backward()
    return losses, {name for name, p in model.named_parameters() if p.grad is not None}


CASES = {
    "masks": batch(),
    "boxes": batch(masks=False, task="obj365"),
    "nothing": batch((0, 0)),
    "one empty": batch((0, 2)),
    "more than denoising": batch((7, 1)),
    "grounding": batch((1, 1), task="grounding"),
    "prompt": prompted(),
    "point": prompted("point"),
}


@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_batch_gives_the_same_finite_losses_by_name(model, case):
    losses, _ = step(model, CASES[case])
    expected, _ = step(model, CASES["masks"])
    assert set(losses) == set(expected)
    for name, loss in losses.items():
        assert torch.isfinite(loss.total), name
        assert loss.per in ("objects", "text_tokens", "batches")
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("case", ["masks", "grounding", "prompt"])
@pytest.mark.parametrize("config", [CONFIG, CONFIG.replace(**SWIN)], ids=["resnet", "swin"])
def test_recomputed_activations_change_neither_losses_nor_gradients(case, config):
    found = []
    for recomputed in (False, True):
        torch.manual_seed(0)
        model = Glee(config)
        if recomputed:
            recompute(model, stages("tiny")[0])
            assert len(model.checkpoint_blocks()) > config.encoder_layers + config.decoder_layers
        losses, _ = step(model, CASES[case])
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        found.append(({name: loss.total.detach() for name, loss in losses.items()}, gradients))
    for plain, again in zip(*found, strict=True):
        assert plain.keys() == again.keys()
        for name, expected in plain.items():
            torch.testing.assert_close(again[name], expected, rtol=1e-5, atol=1e-6, msg=name)


def test_adapters_train_and_the_rest_stays(model):
    adapted = Glee(CONFIG)
    adapted.load_state_dict(model.state_dict())
    stage = stages("tiny")[0].replace(lora=Lora(rank=2), frozen=())
    torch.testing.assert_close(values(step(adapted, batch())[0]), values(step(model, batch())[0]))
    assert add_lora(adapted, stage.lora, adapted.lora_modules())
    freeze(adapted, stage)
    before = {name: p.detach().clone() for name, p in adapted.named_parameters()}
    optimiser = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.1)
    losses, first = step(adapted, batch())
    torch.testing.assert_close(values(losses), values(step(model, batch())[0]))
    optimiser.step()
    moved = {name for name, p in adapted.named_parameters() if not torch.equal(p, before[name])}
    assert first
    assert moved
    assert all(is_adapter(name) for name in first | moved)


def values(losses: Losses) -> dict[str, Tensor]:
    return {name: loss.total.detach() for name, loss in losses.items()}


def test_all_losses_of_the_published_model_are_there():
    config = LITE.replace(**{name: getattr(CONFIG, name) for name in ("hidden_dim", "decoder_heads", "mask_dim")})
    with torch.device("meta"):
        layers = Glee(config).config.decoder_layers
    names = {"track_loss", "dist_loss"}
    for suffix in ("", *(f"_{i}" for i in range(layers)), "_interm"):
        names |= {f"loss_{kind}{suffix}" for kind in ("ce", "bbox", "giou", "mask", "dice", "conf")}
    for suffix in ("_dn", *(f"_dn_{i}" for i in range(layers))):
        names |= {f"loss_{kind}{suffix}" for kind in ("ce", "bbox", "giou")}
    assert len(names) == 98
    tiny = {name for name in names if not name.rpartition("_")[2].isdigit() or int(name.rpartition("_")[2]) < 3}
    assert set(step(Glee(CONFIG), batch())[0]) == tiny


def test_gradients_reach_exactly_what_a_batch_uses(model):
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert not any(name.startswith("text_encoder_teacher") for name in trained)
    dead = {  # the text side of the fusion, which nothing reads
        f"fusion.{part}" for part in (
            "text_scale", "attention.visual_value.weight", "attention.visual_value.bias",
            "attention.text_out.weight", "attention.text_out.bias",
        )
    }  # fmt: skip
    parts = ("prompt.", "query_decoder.label_embed.", "query_decoder.confidence_mlp.", "query_decoder.mask_mlp.")
    optional = {name for name in trained if name.startswith(parts)}
    always = trained - dead - optional
    _, reached = step(model, batch())
    assert reached - optional == always
    assert "query_decoder.label_embed.coco.weight" in reached
    assert not any(name.startswith(("prompt.", "query_decoder.confidence")) for name in reached)
    _, reached = step(model, batch(masks=False, task="obj365"))
    assert "query_decoder.label_embed.obj365.weight" in reached
    assert not any(name.startswith("query_decoder.mask_mlp") for name in reached)
    _, reached = step(model, prompted())
    assert {"prompt.sign.weight", "prompt.embed.0", "prompt.fuser.refine.0.weight"} <= reached
    assert any(name.startswith("query_decoder.confidence_mlp") for name in reached)


def test_a_step_is_a_function_of_the_seed(model):
    first, second, other = (step(model, batch(), seed)[0] for seed in (1, 1, 2))
    assert all(torch.equal(first[name].total, second[name].total) for name in first)
    assert not torch.equal(total(first, batch()), total(other, batch()))


def test_padding_is_exactly_zero_and_has_no_part_in_the_pixels(model):
    images = model.normalise(batch())
    assert not images[1, :, 50:].any()
    assert not images[1, :, :, 70:].any()
    assert images[0].all(0).any()


def test_names_padded_further_change_nothing(model):
    model.eval()
    given = batch()
    ids, mask = tokenise(NAMES, MAX_TOKENS)
    wide = dataclasses.replace(given, input_ids=ids, attention_mask=mask)
    with torch.no_grad():
        for ours, theirs in zip(model.train()(given).values(), model(wide).values()):
            assert ours.per == theirs.per
        narrow, padded = (model.encode_text(b) for b in (given, wide))
    torch.testing.assert_close(narrow.classes, padded.classes)
    torch.testing.assert_close(narrow.fusion, padded.fusion)


def test_a_frozen_text_encoder_reads_each_phrase_once():
    frozen = Glee(CONFIG.replace(text="frozen", visual_prompt=False))
    calls: list[int] = []
    frozen.text_encoder.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    given = batch()
    first = frozen.train().encode_text(given)
    first_calls = len(calls)
    again = frozen.encode_text(given)
    torch.testing.assert_close(first.classes, again.classes)
    ids, mask = tokenise((*NAMES[2:], "a very small yellow bird"))
    frozen.encode_text(dataclasses.replace(given, names=(*NAMES[2:], "new"), input_ids=ids, attention_mask=mask))
    assert calls.count(0) == 0
    assert (sum(calls[:first_calls]), sum(calls)) == (4, 5)
    with torch.no_grad():
        next(frozen.text_encoder.parameters()).add_(1)
    assert not torch.allclose(frozen.encode_text(given).classes, first.classes)
    assert sum(calls) == 9


def test_features_kept_in_inference_mode_serve_training(model):
    fresh = Glee(CONFIG)
    with torch.inference_mode():
        fresh.eval().predict(batch())
    step(fresh, batch())


def test_the_teacher_starts_equal_and_the_distance_is_zero(model):
    losses, _ = step(Glee(CONFIG), batch())
    assert float(losses["dist_loss"].total.detach()) < 1e-9


def test_predictions_are_sorted_and_lie_in_the_original_image(model):
    given = batch()
    predictions = model.eval().predict(given)
    assert [prediction.size for prediction in predictions] == [(128, 192), (100, 140)]
    for prediction in predictions:
        assert len(prediction.scores) == min(CONFIG.detections, CONFIG.num_queries * len(NAMES))
        assert torch.equal(prediction.scores, prediction.scores.sort(descending=True).values)
        assert all(NAMES[label] == name for label, name in zip(prediction.labels.tolist(), prediction.names))
        assert all(tuple(mask["size"]) == prediction.size for mask in prediction.masks)


def test_an_expression_and_a_prompt_have_one_answer(model):
    model.eval()
    assert [len(p.scores) for p in model.predict(CASES["grounding"])] == [1, 1]
    assert [p.names for p in model.predict(CASES["grounding"])] == [("the dog number 0",), ("the dog number 1",)]
    assert [len(p.scores) for p in model.predict(prompted("scribble"))] == [1, 1]


def test_one_image_predicts_alike_alone_and_in_a_batch(model):
    model.eval()
    given = batch()
    alone = dataclasses.replace(
        given, images=given.images[:1], image_sizes=given.image_sizes[:1], original_sizes=given.original_sizes[:1],
        image_ids=(0,), num_objects=(2,), labels=given.labels[:2], boxes_cxcywh=given.boxes_cxcywh[:2], masks=None,
    )  # fmt: skip
    together, single = model.predict(given)[0], model.predict(alone)[0]
    torch.testing.assert_close(together.scores, single.scores, rtol=1e-4, atol=1e-6)


def test_an_exported_model_reads_back_with_equal_outputs(model, tmp_path):
    names = model.published("upstream")
    write_safetensors(names.to_published(model.state_dict()), tmp_path, max_shard_bytes=1_000_000)
    other = Glee(CONFIG)
    report = other.initialise(tmp_path)
    assert not report.new
    first, second = (m.eval().predict(batch())[0] for m in (model, other))
    assert torch.equal(first.scores, second.scores)
    assert torch.equal(first.boxes_xyxy, second.boxes_xyxy)


def test_a_first_stage_checkpoint_gives_the_teacher_too(tmp_path):
    stage1 = Glee(CONFIG.replace(text="frozen", visual_prompt=False))
    tensors = stage1.published().to_published(stage1.state_dict())
    path = tmp_path / "GLEE_pretrain.pth"
    torch.save(
        {name.removeprefix("glee."): tensor for name, tensor in tensors.items() if "criterion" not in name}, path
    )
    stage2 = Glee(CONFIG)
    report = stage2.initialise(path)
    assert all(name.startswith("prompt.fuser") for name in report.new)
    for name, tensor in stage1.text_encoder.state_dict().items():
        assert torch.equal(stage2.text_encoder_teacher.state_dict()[name], tensor)
    assert stage1.initialise(write(stage2, tmp_path)).new == []


def write(model: Glee, folder):
    path = folder / "full.pth"
    torch.save({"model": model.published().to_published(model.state_dict())}, path)
    return path


def test_a_maskdino_file_fills_what_fits(tmp_path):
    donor, model = Glee(CONFIG), Glee(CONFIG.replace(num_queries=9, decoder_ffn=64))
    published = {
        name.removeprefix("glee."): tensor
        for name, tensor in donor.published().to_published(donor.state_dict()).items()
        if any(part in name for part in ("backbone", "pixel_decoder", "predictor.decoder", "_bbox_embed"))
    }
    published |= {"predictor.query_feat.weight": torch.zeros(3, 3), "predictor.class_embed.weight": torch.zeros(2)}
    torch.save({f"sem_seg_head.{k}" if k.startswith("p") else k: v for k, v in published.items()}, tmp_path / "m.pth")
    before = model.text_projection.clone()
    report = model.initialise(tmp_path / "m.pth")
    assert torch.equal(model.backbone.conv1.weight, donor.backbone.conv1.weight)
    assert torch.equal(model.query_decoder.norm.weight, donor.query_decoder.norm.weight)
    assert torch.equal(model.text_projection, before)
    assert any("ffn.linear1" in name for name in report.misfits)
    assert "predictor.query_feat.weight" in report.ignored


def test_a_clip_file_fills_the_text_encoder_and_its_teacher(tmp_path):
    donor, model = Glee(CONFIG), Glee(CONFIG)
    clip = {f"text_model.{name}": tensor for name, tensor in donor.text_encoder.state_dict().items()}
    clip |= {
        "vision_model.x": torch.zeros(1),
        "logit_scale": torch.zeros(()),
        "text_model.embeddings.position_ids": torch.arange(2),
    }
    torch.save(clip, tmp_path / "pytorch_model.bin")
    model.initialise(tmp_path)
    for part in (model.text_encoder, model.text_encoder_teacher):
        assert all(torch.equal(part.state_dict()[k], v) for k, v in donor.text_encoder.state_dict().items())


def test_a_file_of_something_else_is_refused(model, tmp_path):
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="nothing in this file fits GLEE"):
        model.initialise(tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="no weight format 'upsteam'"):
        model.published("upsteam")


def test_unknown_variants_settings_and_tasks_are_named(model):
    stage = stages("tiny")[0]
    with pytest.raises(RecipeError, match="no variant 'tyni'"):
        build(stage, "tyni")
    with pytest.raises(RecipeError, match=r"no model setting 'num_querys'[\s\S]*num_queries"):
        build(stage.replace(model={"num_querys": 3}), "tiny")
    with pytest.raises(RecipeError, match="no label embedding for task 'cocoa'"):
        step(model, batch(task="cocoa"))


def test_stage_settings_reach_the_model():
    stage = stages("tiny")[0]
    built = build(stage.replace(loss_weights={**stage.loss_weights, "loss_ce": 7.0}, model={"num_queries": 5}), "tiny")
    assert built.config.num_queries == 5
    assert built.criterion.weights["loss_ce"] == 7.0


def test_bfloat16_autocast_trains(model):
    given = batch()
    model.zero_grad(set_to_none=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model.train()(given)
    total(losses, given).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert losses["loss_ce"].total.dtype == torch.float32


def test_every_class_starts_improbable_at_random_weights(model):
    model.train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        losses = model(batch())
        model.eval()
        outputs, _ = model.run(batch(), Draws())
    assert losses["loss_ce"].total.item() / 3 < 10
    assert torch.allclose(outputs.sets["final"].logits.sigmoid().median(), torch.tensor(0.01), atol=0.003)
