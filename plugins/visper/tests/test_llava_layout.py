"""Tensors of VisPer-LM under the names of a plain LLaVA."""

import pytest
import torch
from mmcore.errors import WeightsError
from mmcore.vision.convnext import ConvNextTower
from mmcore_visper.config import VARIANTS
from mmcore_visper.llava_layout import expressible, fold, task_rows
from mmcore_visper.model import Visper
from mmcore_visper.parity.__main__ import kinds
from torch import Tensor

TINY = VARIANTS["tiny"]
EMBEDDINGS, OUTPUT = "language_model.model.embed_tokens.weight", "language_model.lm_head.weight"


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """Published names and values of the tiny model, predictors and depth decoder among them."""
    torch.manual_seed(0)
    model = Visper(TINY)
    return model.published().to_published({name: t.detach() for name, t in model.state_dict().items()})


def test_task_vectors_are_those_that_the_model_inserts(state):
    model = Visper(TINY)
    model.load_state_dict(model.published().to_ours(state, model.state_dict())[0])
    assert model.task_tokens is not None
    inserted, _ = model.task_tokens()
    torch.testing.assert_close(task_rows(state, TINY), torch.cat(list(inserted.values())), rtol=0, atol=1e-7)


def test_only_the_rows_of_task_tokens_change_and_the_output_layer_does_not(state):
    ids = list(range(500, 524))
    folded = fold(state, TINY, ids)
    before, after = state["model.embed_tokens.weight"], folded[EMBEDDINGS]
    changed = (before != after).any(1).nonzero()[:, 0].tolist()
    assert changed == ids
    assert torch.equal(after[ids], task_rows(state, TINY))
    assert torch.equal(folded[OUTPUT], state["lm_head.weight"])


def test_predictors_and_teachers_are_dropped(state):
    more = dict(state) | {"dav2_backbone.x": torch.zeros(1), "oneformer.y": torch.zeros(1)}
    parts = {name.split(".")[0] for name in fold(more, TINY, range(24))}
    assert parts == {"language_model", "vision_tower", "multi_modal_projector"}


def test_new_rows_never_beat_a_word(state):
    folded = fold(state, TINY, range(1024, 1048), rows=1049)
    assert folded[EMBEDDINGS].shape == folded[OUTPUT].shape == (1049, TINY.width)
    logits = torch.randn(5, TINY.width) @ folded[OUTPUT].T
    assert (logits.argmax(1) < 1024).all()


def test_a_tied_output_layer_keeps_its_words(state):
    tied = {name: tensor for name, tensor in state.items() if name != "lm_head.weight"}
    folded = fold(tied, TINY, range(24))
    assert torch.equal(folded[OUTPUT], state["model.embed_tokens.weight"])


def test_a_name_of_no_part_is_refused(state):
    with pytest.raises(WeightsError, match="is no tensor of VisPer-LM"):
        fold(dict(state) | {"model.extra.weight": torch.zeros(1)}, TINY, range(24))


def test_a_tower_without_a_place_is_refused(state):
    convnext = TINY.replace(tower=ConvNextTower())
    assert not expressible(convnext)
    with pytest.raises(WeightsError, match="no place for this model's image tower"):
        fold(state, convnext)


@pytest.mark.parametrize("case", ["export_llava_llama", "export_llava_phi3", "export_chat_template"])
def test_golden_exports_agree(case, shared, capsys):
    from mmcore.parity import main

    assert main("visper", kinds(), ["-q", str(shared / "goldens/visper" / case)]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("case", ["infer_llama_vit", "infer_phi3_convnext"])
def test_golden_answers_agree(case, shared, capsys):
    from mmcore.parity import main

    if case.endswith("convnext"):
        pytest.importorskip("timm", reason="the ConvNeXt tower needs timm")
    assert main("visper", kinds(), ["-q", str(shared / "goldens/visper" / case)]) == 0, capsys.readouterr().out
