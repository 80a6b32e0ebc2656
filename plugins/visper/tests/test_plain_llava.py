"""Tensors of VisPer-LM under the names of a plain LLaVA."""

import mmcore_visper.parity as package
import pytest
import torch
from mmcore.language.llava.layout import fold
from mmcore.parity import checks_of, main
from mmcore_visper.config import VARIANTS
from mmcore_visper.export import TRAINING_ONLY, task_rows
from mmcore_visper.model import Visper
from torch import Tensor

KINDS = checks_of(package)

TINY = VARIANTS["tiny"]


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


def test_predictors_and_teachers_are_dropped(state):
    more = dict(state) | {"dav2_backbone.x": torch.zeros(1), "oneformer.y": torch.zeros(1)}
    parts = {name.split(".")[0] for name in fold(more, task_rows(state, TINY), range(24), dropped=TRAINING_ONLY)}
    assert parts == {"language_model", "vision_tower", "multi_modal_projector"}


@pytest.mark.parametrize("case", ["export_llava_llama", "export_llava_phi3", "export_chat_template"])
def test_golden_exports_agree(case, shared, capsys):
    assert main("visper", KINDS, ["-q", str(shared / "goldens/visper" / case)]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("case", ["infer_llama_vit", "infer_phi3_convnext"])
def test_golden_answers_agree(case, shared, capsys):
    if case.endswith("convnext"):
        pytest.importorskip("timm", reason="the ConvNeXt tower needs timm")
    assert main("visper", KINDS, ["-q", str(shared / "goldens/visper" / case)]) == 0, capsys.readouterr().out
