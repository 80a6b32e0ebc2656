"""Probes read every layer of a model that stays as it is."""

import pytest
import torch
from mmcore.errors import RecipeError
from mmcore_visper.build import build
from mmcore_visper.config import TINY
from mmcore_visper.interpret import interpret
from mmcore_visper.losses import smooth_l1
from mmcore_visper.model import Visper
from mmcore_visper.probe import VisperProbe, cosine
from mmcore_visper.recipes import stages
from mmcore_visper.weights import upstream


@pytest.fixture(scope="module", params=["depth", "seg", "gen"])
def probe(request) -> VisperProbe:
    torch.manual_seed(0)
    return VisperProbe(TINY.replace(probe=request.param))


def test_the_loss_is_the_sum_over_layers(probe, ranks):
    batch = ranks.tiny_batch(probe.config)
    target = batch.features[probe.task.name]
    predictions = probe.probe(batch)
    assert len(predictions) == TINY.num_layers
    (loss,) = probe(batch).values()
    assert loss.per == "samples"
    expected = sum(smooth_l1(prediction, target).sum() for prediction in predictions)
    torch.testing.assert_close(loss.total, expected)
    assert float(next(iter(probe(ranks.tiny_batch(probe.config, (0, 0))).values())).total) == 0


def test_only_the_probes_get_gradients_and_all_of_them_do(probe, ranks):
    probe.zero_grad()
    next(iter(probe.train()(ranks.tiny_batch(probe.config)).values())).total.backward()
    reached = {name for name, p in probe.named_parameters() if p.grad is not None}
    assert reached == {name for name, _ in probe.named_parameters() if name.startswith("probes.")}
    assert not probe.language.training
    assert probe.probes.training


def test_scores_are_the_similarity_of_whole_predictions_layer_by_layer(probe, ranks):
    batch = ranks.tiny_batch(probe.config, (0, 1))
    (prediction,) = probe.predict(batch)
    assert prediction.image_id == 1
    expected = [float(cosine(p, batch.features[probe.task.name]).detach()) for p in probe.probe(batch)]
    assert prediction.scores is None
    assert prediction.measures["cosine"] == pytest.approx(expected, abs=1e-6)
    assert probe.predict(ranks.tiny_batch(probe.config, (0, 0))) == []


def test_depth_probes_have_no_mlps_and_decode_to_pictures(ranks):
    probe = VisperProbe(TINY.replace(probe="depth"))
    assert not any("mlps" in name for name in probe.state_dict())
    shown = interpret(probe, ranks.tiny_batch(probe.config))
    assert sorted(shown.depth_maps) == [1, 2, 3, 4]
    assert interpret(VisperProbe(TINY.replace(probe="gen")), ranks.tiny_batch(probe.config)).depth_maps == {}


def test_a_trained_model_is_probed_with_the_weights_it_had(ranks):
    torch.manual_seed(0)
    trained = Visper(TINY.replace(predictors=False))
    probe = VisperProbe(TINY.replace(probe="gen"))
    published = trained.published().to_published(trained.state_dict())
    own = probe.state_dict()
    state, report = upstream(probe.config, published).to_ours(published, own)
    assert all(name.startswith("probes.") for name in report.new)
    probe.load_state_dict({**own, **state})
    batch = ranks.tiny_batch(TINY)
    with torch.no_grad():
        expected = trained.eval().forward_hidden(batch, (2,))[0].recorded[2]
        assert torch.equal(probe.eval().forward_hidden(batch, (2,))[0].recorded[2], expected)


def test_published_probes_were_evaluated_without_task_tokens():
    assert VisperProbe(TINY.replace(probe="gen", published={"probe_task_tokens": False})).task_tokens is None
    assert VisperProbe(TINY.replace(probe="gen")).task_tokens is not None


def test_the_probe_stage_builds_probes_and_trains_them_alone():
    stage = next(stage for stage in stages("llama3-vit") if stage.name == "probe")
    model = build(stage.replace(max_length=512), "tiny")
    assert isinstance(model, VisperProbe)
    assert {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad} == {"probes"}
    with pytest.raises(RecipeError, match="probe"):
        TINY.replace(tasks=["gen"], probe="seg")


def test_a_depth_probe_carries_its_teachers_file_into_the_published_format(tmp_path):
    torch.save({"pretrained.cls_token": torch.ones(1, 1, 4)}, tmp_path / "teacher.pth")
    probe = VisperProbe(TINY.replace(probe="depth"))
    assert not any(name.startswith("dav2_backbone") for name in probe.published().to_published(probe.state_dict()))
    probe.teacher_file = tmp_path / "teacher.pth"
    published = probe.published().to_published(probe.state_dict())
    assert torch.equal(published["dav2_backbone.pretrained.cls_token"], torch.ones(1, 1, 4))
    state, _ = probe.published().to_ours(published, probe.state_dict())
    assert state.keys() == probe.state_dict().keys()
