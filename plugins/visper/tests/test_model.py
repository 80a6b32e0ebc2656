"""The whole model on small batches: what each loss depends on, what trains, and what answers look like."""

import dataclasses

import numpy as np
import pytest
import torch
from mmcore.contract.recipe import Lora, matches_any
from mmcore.errors import RecipeError, ShapeError, UsageError
from mmcore.language.llava import model as llava
from mmcore.train.lora import add_lora
from mmcore.train.optim import freeze
from mmcore.train.recompute import recompute_block
from mmcore_visper import model as visper_model
from mmcore_visper.build import build
from mmcore_visper.config import TINY, VARIANTS
from mmcore_visper.interpret import interpret
from mmcore_visper.model import Visper
from mmcore_visper.recipes import stages
from torch import nn


@pytest.fixture(scope="module")
def model() -> Visper:
    torch.manual_seed(0)
    return Visper(TINY).eval()


def values(losses):
    return {name: float(loss.total.detach()) for name, loss in losses.items()}


def with_settings(model, **changes):
    """The same weights under other switches."""
    other = Visper(model.config.replace(**changes)).eval()
    other.load_state_dict(model.state_dict())
    return other


def test_text_counts_by_token_and_every_task_by_sample(model, ranks):
    losses = model(ranks.tiny_batch(model.config))
    assert {name: loss.per for name, loss in losses.items()} == {
        "text": "tokens", "gen": "samples", "depth": "samples", "seg": "samples",
    }  # fmt: skip
    assert all(value > 0 for value in values(losses).values())


def test_padding_does_not_reach_the_losses_where_it_is_masked(model, ranks):
    clean = with_settings(model, published={"padding_keys": "masked"})
    batch, alone = ranks.tiny_batch(model.config, (1, 1, 1)), ranks.tiny_batch(model.config, (1,))
    alone = dataclasses.replace(alone, images=batch.images[:1])
    whole = clean.predict_features(batch, *clean.forward_hidden(batch, clean.layers_read))
    single = clean.predict_features(alone, *clean.forward_hidden(alone, clean.layers_read))
    for name, layers in single.items():
        for one, many in zip(layers, whole[name], strict=True):
            torch.testing.assert_close(one[0], many[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("precision", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-13)])
def test_packed_rows_give_the_losses_and_gradients_of_padded_ones(ranks, precision, tolerance):
    torch.manual_seed(0)
    model = Visper(TINY.replace(published={"padding_keys": "masked"})).to(precision)
    found = []
    for pack_to in (None, 400):
        model.zero_grad()
        batch = ranks.tiny_batch(model.config, pack_to=pack_to)
        targets = {name: target.to(precision) for name, target in batch.features.items()}
        losses = model(dataclasses.replace(batch, images=batch.images.to(precision), features=targets))
        torch.stack([loss.total for loss in losses.values()]).sum().backward()
        found.append((values(losses), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    (padded, gradients), (packed, others) = found
    assert packed == pytest.approx(padded, rel=tolerance)
    assert gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        assert (others[name] - gradient).norm() <= tolerance * gradient.norm(), name


def test_a_batch_without_images_runs_neither_tower_nor_predictors(model, ranks, monkeypatch):
    def refuse(*_):
        raise AssertionError("the vision parts ran")

    monkeypatch.setattr(model.tower, "forward", refuse)
    losses = values(model(ranks.tiny_batch(model.config, (0, 0))))
    assert losses["text"] > 0
    assert losses["gen"] == losses["depth"] == losses["seg"] == 0


def test_text_only_samples_do_not_change_the_others(model, ranks):
    batch = ranks.tiny_batch(model.config, (1, 0))
    alone = ranks.tiny_batch(model.config, (1,))
    assert torch.equal(batch.images, alone.images)
    with_text = with_settings(model, published={"padding_keys": "masked"})
    mixed, single = values(with_text(batch)), values(with_text(alone))
    for task in ("gen", "depth", "seg"):
        assert mixed[task] == pytest.approx(single[task], rel=1e-5)


def test_released_masks_zero_the_embedding_losses_and_their_gradients(model, ranks):
    released = with_settings(model, published={"released_masks": True})
    losses = released(ranks.tiny_batch(model.config))
    torch.stack([loss.total for loss in losses.values()]).sum().backward()
    assert [values(losses)[task] for task in ("gen", "depth", "seg")] == [0, 0, 0]
    assert not any(bool(p.grad.any()) for p in released.predictors.parameters() if p.grad is not None)


def test_the_released_average_needs_targets_for_every_sample(model, ranks):
    published = with_settings(model, published={"outer_product_mask": True})
    batch = ranks.tiny_batch(model.config, (1, 0, 1))
    with pytest.raises(ShapeError, match=r"instead of \(3, "):
        published(batch)
    everyone = {t.name: torch.randn(3, *t.target_shape) for t in model.config.tasks}
    assert values(published(dataclasses.replace(batch, features=everyone)))["depth"] > 0
    full = ranks.tiny_batch(model.config, (1, 1))
    assert values(published(full)) == pytest.approx(values(model(full)), rel=1e-6)


def test_missing_targets_are_asked_of_the_teachers_or_named(model, ranks):
    batch = ranks.tiny_batch(model.config)
    given = batch.features
    bare = dataclasses.replace(batch, features={}, other_images={"depth": torch.zeros(2, 1)})
    other = with_settings(model)
    other.teachers = lambda inputs: given if set(inputs) == {"depth"} else {}
    assert values(other(bare)) == values(model(batch))
    assert not any("teacher" in name for name in other.state_dict())
    with pytest.raises(ShapeError, match="targets of gen are missing"):
        model(dataclasses.replace(bare, other_images={}))


def test_a_pool_of_the_micro_batch_asks_no_other_process(model, ranks, monkeypatch):
    """So the objective is the same however many processes there are; the published pool asks all of them."""
    batch = ranks.tiny_batch(model.config)
    alone = values(model(batch))
    own = with_settings(model, contrast_pool="micro_batch").train()
    published = with_settings(model).train()
    monkeypatch.setattr(llava, "is_distributed", lambda: True)
    monkeypatch.setattr(visper_model, "exchange_shares", lambda targets: pytest.fail("other processes were asked"))
    assert values(own(batch)) == pytest.approx(alone)
    with pytest.raises(pytest.fail.Exception, match="asked"):
        published(batch)


def test_loss_weights_of_the_recipe_scale_the_losses(model, ranks):
    batch = ranks.tiny_batch(model.config)
    other = Visper(model.config, {"text": 2.0, "depth": 0.0}).eval()
    other.load_state_dict(model.state_dict())
    one, two = values(model(batch)), values(other(batch))
    assert two["text"] == pytest.approx(2 * one["text"])
    assert (two["depth"], two["seg"]) == (0.0, pytest.approx(one["seg"]))


def test_stage_pt_trains_projector_predictors_task_tokens_and_scales(ranks):
    stage = next(stage for stage in stages("llama3-vit") if stage.name == "pt")
    model = Visper(TINY)
    freeze(model, stage)
    losses = model(ranks.tiny_batch(TINY))
    torch.stack([loss.total for loss in losses.values()]).sum().backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert {name.split(".")[0] for name in moved} == {"projector", "predictors", "task_tokens", "logit_scales"}
    still = {n for n, p in model.named_parameters() if p.requires_grad} - moved
    assert still
    assert all(matches_any(model.idle_parameters(stage), name) for name in still)


def test_every_task_subset_and_the_baseline_build_and_train(ranks):
    subsets = [["depth"], ["seg", "gen"], []]
    for tasks in subsets:
        config = TINY.replace(tasks=tasks, predictors=bool(tasks), num_task_tokens=8 if tasks else 0)
        losses = Visper(config)(ranks.tiny_batch(config))
        assert list(losses) == ["text", *tasks]
    latent = TINY.replace(num_task_tokens=0)
    assert Visper(latent).task_tokens is None
    assert list(Visper(latent)(ranks.tiny_batch(latent))) == ["text", "gen", "depth", "seg"]


def test_interpretation_shows_every_output_and_decodes_depth(model, ranks):
    shown = interpret(model, ranks.tiny_batch(model.config))
    assert {task: list(layers) for task, layers in shown.outputs.items()} == {
        "gen": [2, 3], "depth": [3, 4], "seg": [1, 3],
    }  # fmt: skip
    assert len(shown.outputs["depth"][3]) == 4
    assert list(shown.depth_maps) == [3, 4]
    for picture in shown.depth_maps.values():
        assert picture.shape == (2, 112, 112)
        assert float(picture.min()) >= 0
        assert float(picture.max()) <= 1


def test_later_stages_keep_task_tokens_and_drop_predictors():
    for stage in stages("tiny"):
        model = build(stage, "tiny")
        assert bool(model.predictors) is (stage.name == "pt")
        assert model.task_tokens is not None
    assert set(VARIANTS) == {
        "llama3-vit", "llama3-convnext", "phi3-vit", "phi3-convnext", "llava15-llama3-vit", "tiny",
    }  # fmt: skip


def test_an_unknown_model_setting_of_a_recipe_is_refused_with_the_nearest():
    stage = stages("tiny")[0]
    with pytest.raises(RecipeError, match="num_task_tokens"):
        build(stage.replace(model={"num_task_toknes": 4}), "tiny")


def test_answers_are_the_same_one_by_one_and_in_a_batch(model):
    images = [np.full((40, 60, 3), 30, np.uint8), np.full((50, 30, 3), 220, np.uint8)]
    batch = model.prepare(images, prompt="What colour is it?")
    batch.max_new_tokens = 5
    together = model.predict(batch)
    assert [prediction.size for prediction in together] == [(40, 60), (50, 30)]
    for image, prediction in zip(images, together, strict=True):
        one = model.prepare([image], prompt="What colour is it?")
        one.max_new_tokens = 5
        assert model.predict(one)[0].text == prediction.text


def test_names_are_no_question(model):
    with pytest.raises(UsageError, match="prompt"):
        model.prepare([np.zeros((4, 4, 3), np.uint8)], names=["dog"])


def test_checkpointing_changes_no_gradient(ranks):
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = Visper(TINY).train()
        model.language.requires_grad_(False)
        if checkpointing:
            for block in model.checkpoint_blocks():
                recompute_block(block)
        torch.stack([loss.total for loss in model(ranks.tiny_batch(TINY)).values()]).sum().backward()
        found.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    plain, checkpointed = found
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


def test_half_precision_keeps_the_losses_in_float32_and_close(model, ranks):
    batch = ranks.tiny_batch(model.config)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = model(batch)
    assert {loss.total.dtype for loss in low.values()} == {torch.float32}
    assert values(low) == pytest.approx(values(model(batch)), rel=0.03)


def test_adapters_go_where_the_recipe_says(ranks):
    model = Visper(TINY)
    before = values(model(ranks.tiny_batch(TINY)))
    add_lora(model, Lora(rank=2, alpha=4, targets=("language.model.layers.*.q_proj",)))
    adapted = [name for name, part in model.named_modules() if hasattr(part, "lora_A")]
    assert len(adapted) == TINY.num_layers
    assert values(model(ranks.tiny_batch(TINY))) == pytest.approx(before, rel=1e-6)


def test_the_tower_runs_without_gradients_unless_it_is_trained(ranks):
    model = Visper(TINY)
    features = model.spliced(ranks.tiny_batch(TINY))
    assert features["image"].requires_grad
    torch.stack([loss.total for loss in model(ranks.tiny_batch(TINY)).values()]).sum().backward()
    assert all(p.grad is None for p in model.tower.parameters())
    model.tower.requires_grad_(True)
    torch.stack([loss.total for loss in model(ranks.tiny_batch(TINY)).values()]).sum().backward()
    assert isinstance(model.tower.patch_embedding, nn.Conv2d)
    assert model.tower.patch_embedding.weight.grad is not None
