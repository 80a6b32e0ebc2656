"""Cached targets and live teachers: one decision, the same losses, and an error when something has changed."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from mmcore import DataContext, Stage
from mmcore.cli.data import data as data_commands
from mmcore.contract.values import Draw
from mmcore.data.cache.check import verify
from mmcore.data.cache.choice import CachedFeatures, LiveFeatures
from mmcore.data.cache.fill import fill
from mmcore.data.loader import Loader
from mmcore.errors import DataError, MissingDataError, MmcoreError, RecipeError, WeightsError
from mmcore_visper.build import build as build_model
from mmcore_visper.data import build
from mmcore_visper.data.cached import data_cache
from mmcore_visper.data.demo import write_demo
from mmcore_visper.recipes import stages
from mmcore_visper.targets import decide, plan_notes, targets_for
from PIL import Image

PICTURES = 11


@pytest.fixture
def context(tmp_path: Path) -> DataContext:
    root = tmp_path / "data"
    write_demo(root, train=10, val=1)
    return DataContext(root=root, cache=tmp_path / "cache", variant="tiny", seed=0)


def stage_of(name: str = "pt", **model) -> Stage:
    stage = next(stage for stage in stages("tiny") if stage.name == name)
    return stage.replace(model={**stage.model, **model})


def make(stage: Stage, context: DataContext, **options) -> Path:
    job = data_cache(stage, context, options.pop("dtype", None))
    fill(job, job.folder, **{"batch": 3, "workers": 0, **options})
    return job.folder


def batch_of(stage: Stage, context: DataContext):
    datasets = build(stage, "train", context)
    name = next(iter(datasets.sources))
    order = type("Order", (), {"seed": 0, "draws": lambda self, m: tuple(Draw(name, i, i) for i in range(7))})()
    loader = Loader(datasets, order, num_workers=0, policy="error", pin_memory=False)
    return next(iter(loader.iterate(0, 1)))[1]


def losses_of(stage: Stage, context: DataContext):
    torch.manual_seed(0)
    model = build_model(stage, context.variant)
    model.attach(stage, context)
    losses = model(batch_of(stage, context))
    sum(loss.total for loss in losses.values()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: loss.total for name, loss in losses.items()}, gradients, model


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_cached_targets_and_live_teachers_give_identical_losses_and_gradients(context, dtype):
    make(stage_of(target_dtype=dtype), context)
    cached, cached_gradients, model = losses_of(stage_of(targets="cache", target_dtype=dtype), context)
    assert not getattr(model.teachers, "networks", None), "no teacher was loaded"
    live, live_gradients, _ = losses_of(stage_of(targets="live", target_dtype=dtype), context)
    assert set(live) == {"text", "gen", "depth", "seg"}
    for name, loss in live.items():
        assert torch.equal(loss, cached[name]), name
    for name, gradient in live_gradients.items():
        assert torch.equal(gradient, cached_gradients[name]), name


def test_a_batch_holds_either_targets_or_what_teachers_take(context):
    live = batch_of(stage_of(), context)
    assert not live.features
    assert set(live.other_images) == {"gen", "depth", "seg"}
    make(stage_of(), context)
    cached = batch_of(stage_of(), context)
    assert not cached.other_images
    assert {task: tuple(x.shape) for task, x in cached.features.items()} == {
        "gen": (7, 1, 32), "depth": (7, 64, 32), "seg": (7, 48, 8, 8),
    }  # fmt: skip


def test_the_plan_says_where_targets_come_from(context):
    assert "live teachers: no complete cache fits" in plan_notes(stage_of(), context)[0]
    folder = make(stage_of(), context)
    assert f"cached in {folder}, {PICTURES} images, fp16" in plan_notes(stage_of(), context)[0]
    assert "live teachers, as model.targets says" in plan_notes(stage_of(targets="live"), context)[0]
    assert plan_notes(stage_of("ift"), context) == ()


def test_validation_pictures_ask_live_teachers(context):
    make(stage_of(), context)
    assert isinstance(targets_for(stage_of(), context), CachedFeatures)
    assert isinstance(targets_for(stage_of(), context, "val"), LiveFeatures)
    assert targets_for(stage_of("ift"), context) is None


def test_a_wanted_cache_that_is_not_there_is_an_error(context):
    with pytest.raises(MissingDataError, match="no complete cache") as error:
        targets_for(stage_of(targets="cache"), context)
    assert "mmcore data cache" in str(error.value)
    with pytest.raises(MissingDataError, match="no complete cache"):
        targets_for(stage_of(targets="elsewhere"), context)


def test_a_cache_may_lie_anywhere_when_it_is_named(context, tmp_path):
    job = data_cache(stage_of(), context)
    fill(job, tmp_path / "big disk", workers=0)
    assert targets_for(stage_of(targets=str(tmp_path / "big disk")), context).cache.folder == tmp_path / "big disk"
    assert isinstance(targets_for(stage_of(), context), LiveFeatures), "auto looks in its own place only"


def test_a_cache_of_another_precision_does_not_fit(context):
    make(stage_of(), context)
    decision = decide(stage_of(target_dtype="fp32"), context)
    assert decision.cache is None
    assert "store: fp16 instead of fp32" in decision.why


def test_a_cache_serves_only_the_data_it_is_complete_for(context):
    make(stage_of(), context)
    path = context.root / "visper" / "captions_train.json"
    records = json.loads(path.read_text())
    path.write_text(json.dumps([*records, {**records[0], "id": "one more"}]))
    decision = decide(stage_of(), context)
    assert decision.cache is None
    assert "not complete for captions" in decision.why
    make(stage_of(), context)
    assert decide(stage_of(), context).cache is not None


def test_a_changed_picture_is_refused_in_training_and_found_by_the_check(context):
    folder = make(stage_of(), context)
    path = next(iter((context.root / "visper" / "images").glob("*")))
    Image.new("RGB", (50, 40), (9, 200, 9)).save(path, "PNG")
    with pytest.raises(DataError, match="has changed since its targets were cached") as error:
        read_all(stage_of(), context)
    assert str(path) in str(error.value)
    job = data_cache(stage_of(), context)
    assert [path.name in problem for problem in verify(job, folder)] == [True]
    assert fill(job, folder, workers=0).made == 1
    read_all(stage_of(), context)


def read_all(stage: Stage, context: DataContext) -> None:
    source = build(stage, "train", context).sources["captions"]
    for position in range(len(source)):
        source.sample(Draw("captions", position, 0))


# Teachers from files


def gen_stage(context: DataContext, **model) -> Stage:
    gen = {"name": "gen", "output_dim": 20}
    return stage_of(**{"tasks": [gen], "teachers": {"gen": "weights/encoder"}, "teacher_precision": "fp32", **model})


@pytest.fixture
def encoder(context) -> Path:
    return write_encoder(context.root / "weights" / "encoder", seed=0)


def write_encoder(folder: Path, seed: int) -> Path:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(seed)
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14,
        projection_dim=20, hidden_act="gelu",
    )  # fmt: skip
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    return folder


def test_a_published_teacher_gives_identical_losses_too(context, encoder):
    make(gen_stage(context), context)
    cached, _, _ = losses_of(gen_stage(context, targets="cache"), context)
    live, _, model = losses_of(gen_stage(context, targets="live"), context)
    assert set(model.teachers.networks) == {"gen"}
    assert {name: x.tolist() for name, x in live.items()} == {name: x.tolist() for name, x in cached.items()}


def test_a_changed_teacher_is_detected(context, encoder):
    folder = make(gen_stage(context), context)
    write_encoder(encoder, seed=1)
    with pytest.raises(MissingDataError, match="no complete cache") as error:
        targets_for(gen_stage(context, targets="cache"), context)
    assert "gen.files.model.safetensors" in str(error.value)
    job = data_cache(gen_stage(context), context)
    assert job.folder != folder
    with pytest.raises(DataError, match="made by something else"):
        fill(job, folder, workers=0)
    assert verify(job, folder)[0].startswith("made by something else: gen.files.model.safetensors")


def test_a_cache_serves_where_the_teachers_are_not(context, encoder):
    make(gen_stage(context), context)
    there = decide(gen_stage(context), context)
    encoder.rename(encoder.with_name("away"))
    away = decide(gen_stage(context), context)
    assert away.cache.folder == there.cache.folder
    assert away.fingerprint == there.fingerprint
    batch_of(gen_stage(context), context)
    with pytest.raises(MissingDataError, match="teacher of gen are not there"):
        targets_for(gen_stage(context, targets="live"), context)
    half = gen_stage(context)
    assert decide(half.replace(model={**half.model, "teacher_precision": "published"}), context).cache is None


def test_absent_teachers_are_named_with_what_to_do(context):
    with pytest.raises(MissingDataError, match=r"teacher of gen are not there[\s\S]*nowhere[\s\S]*folder `weights`"):
        targets_for(stage_of(teachers={"gen": "nowhere"}, tasks=[{"name": "gen", "output_dim": 1024}]), context)


def test_absent_teachers_are_fetched_from_the_hub_before_anything_is_computed(context, encoder, monkeypatch):
    snapshot = encoder.parent.parent / "hub" / "snapshots" / "abc123"

    def download(*_, local_files_only=False, **__):
        if not local_files_only:
            snapshot.mkdir(parents=True)
            encoder.rename(snapshot / "encoder")
        return str(snapshot)

    monkeypatch.setattr("mmcore.base.hub.silence", lambda: None)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    stage = gen_stage(context, teachers={"gen": "hf://owner/name/encoder"})
    here = decide(gen_stage(context), context).fingerprint
    encoder = encoder.rename(encoder.with_name("away"))
    assert "fetched at the start: hf://owner/name/encoder" in plan_notes(stage, context)[1]
    assert targets_for(stage, context).fingerprint == here
    assert len(plan_notes(stage, context)) == 1


def test_a_teacher_of_another_width_is_refused(context, encoder):
    with pytest.raises(WeightsError, match=r"gen teacher gives \(1, 20\), the predictor \(1, 32\)"):
        targets_for(stage_of(teachers={"gen": "weights/encoder"}), context)
    with pytest.raises(RecipeError, match="no task 'dpeth'"):
        targets_for(stage_of(teachers={"dpeth": "random"}), context)


def test_a_stage_without_embedding_losses_has_nothing_to_cache(context):
    with pytest.raises(RecipeError, match="no embedding losses"):
        data_cache(stage_of("ift"), context)


# The command


def command(*arguments: str) -> dict:
    done = CliRunner().invoke(data_commands, ["cache", "--plugin", "visper", "--stage", "pt", *arguments, "--json"])
    if done.exception and not isinstance(done.exception, MmcoreError):
        raise done.exception
    return {**json.loads(done.stdout), "error": done.exception}


def test_the_command_shows_sizes_fills_checks_and_resumes(context, monkeypatch):
    monkeypatch.setenv("MMCORE_CACHE", str(context.cache))
    where = ("--variant", "tiny", "--data", str(context.root), "--workers", "0")
    planned = command(*where, "--dry-run")
    row = 2 * (32 + 64 * 32 + 48 * 64)
    assert (planned["images"], planned["bytes_per_image"], planned["bytes_to_write"]) == (PICTURES, row, PICTURES * row)
    assert not Path(planned["folder"]).exists()
    assert command(*where)["made"] == PICTURES
    assert command(*where)["made"] == 0
    assert command(*where, "--check")["ok"] is True
    assert command(*where, "--dtype", "fp32", "--dry-run")["bytes_to_write"] == 2 * PICTURES * row
    shard = Path(planned["folder"]) / "shard-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x11")
    checked = command(*where, "--check")
    assert (checked["ok"], checked["problems"]) == (False, [f"shard {shard.name} is damaged: its checksum differs"])
    assert isinstance(checked["error"], DataError)
