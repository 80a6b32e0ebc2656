"""The recipes: published numbers where they belong, for every variant, and what they train is there."""

import math

import pytest
import torch
from mmcore.contract.mixture import ByLength, WholeEpochs
from mmcore.contract.recipe import Cosine, Stage, matches_any
from mmcore.train.schedule import factor
from mmcore_visper import family
from mmcore_visper.config import VARIANTS as CONFIGS
from mmcore_visper.recipes import stages

PUBLISHED = [variant for variant in family().variants if variant != "tiny"]


def stage(variant: str, name: str) -> Stage:
    return next(one for one in stages(variant) if one.name == name)


@pytest.mark.parametrize("variant", PUBLISHED)
@pytest.mark.parametrize(
    ("name", "global_batch", "micro_batch", "lr"),
    [("pt", 256, 32, 1e-3), ("ift", 128, 16, 2e-5), ("probe", 256, 32, 1e-3)],
)
def test_batch_and_rate_are_those_of_the_scripts(
    variant: str, name: str, global_batch: int, micro_batch: int, lr: float
) -> None:
    one = stage(variant, name)
    assert (one.global_batch, one.micro_batch, one.optim.lr) == (global_batch, micro_batch, lr)
    assert (one.optim.weight_decay, one.optim.clip_grad_norm, one.optim.betas) == (0.0, None, (0.9, 0.999))
    assert (one.max_length, one.precision, one.zero, one.epochs, one.checkpoint_every) == (4096, "bf16", 2, 1, 200)


def test_warm_up_starts_at_zero_and_takes_three_percent_rounded_up() -> None:
    schedule = stage("llama3-vit", "ift").schedule
    assert isinstance(schedule, Cosine)
    steps = 5198
    assert factor(schedule, 0, steps) == 0.0
    assert factor(schedule, math.ceil(0.03 * steps), steps) == pytest.approx(1.0)
    assert factor(schedule, steps, steps) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("name", ["ift", "vpt", "vpt-ift", "probe"])
def test_every_stage_but_the_first_groups_by_modality(name: str) -> None:
    assert stage("llama3-vit", name).data.mixture == ByLength(by_modality=True)
    assert stage("llama3-vit", "pt").data.mixture == WholeEpochs()


@pytest.mark.parametrize("variant", family().variants)
def test_every_setting_of_every_stage_exists(variant: str) -> None:
    for one in stages(variant):
        CONFIGS[variant].replace(**one.model)


def test_the_baseline_trains_its_projector_alone_and_has_no_embedding_losses() -> None:
    one = stage("llava15-llama3-vit", "pt")
    assert one.trainable == ("projector",)
    assert set(one.loss_weights) == {"text"}


@pytest.mark.parametrize("variant", family().variants)
def test_what_a_stage_trains_is_in_its_model_and_a_pretrained_tower_never_is(variant: str) -> None:
    from mmcore_visper.build import build

    for one in stages(variant):
        if variant.endswith("convnext"):
            pytest.importorskip("timm")
        with torch.device("meta"):
            names = [name for name, _ in build(one, variant).named_parameters()]
        for pattern in one.trainable:
            assert any(matches_any([pattern], name) for name in names), f"{one.name}: {pattern}"
        trains_tower = any(name.startswith("tower") and matches_any(one.trainable, name) for name in names)
        assert trains_tower == (variant == "tiny" and one.name == "pt")  # the tiny one starts from nothing


def test_a_published_variant_starts_from_its_language_model_and_its_tower() -> None:
    start = stage("phi3-convnext", "pt").init.published
    assert start is not None
    assert set(start) == {"language", "tower"}
    assert "Phi-3-mini-4k" in start["language"]
    assert "convnext_xxlarge" in start["tower"]
