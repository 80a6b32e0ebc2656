"""The loss of a validation set: a function of the weights alone, and nothing that training would notice."""

import random
from pathlib import Path

import pytest
import torch
from mmcore import plugins
from mmcore.base.distributed import Place
from mmcore.runs.build import build_datasets, build_model, prepare_demo
from mmcore.runs.settings import Request, settle
from mmcore.runs.validation_loss import learnable_sets, validation_loss

CPU, ALONE = torch.device("cpu"), Place()


@pytest.mark.parametrize("plugin", plugins.installed())
def test_the_loss_is_a_function_of_the_weights_and_changes_nothing(
    plugin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMCORE_CACHE", str(tmp_path))
    found = plugins.load(plugin)
    stage = next(iter(plugins.stages(plugins.manager(found, ()), found, "tiny")))
    family, settings, _ = settle(Request(plugin=plugin, stage=stage.name, demo=True))
    prepare_demo(family, settings)
    names = list(build_datasets(family, settings, "val").evaluators) if settings.stage.validation else []
    learnable = learnable_sets(family, settings, names)
    if not learnable:
        pytest.skip(f"no validation set of {plugin} {stage.name} can be learned from")
    name, opened = next(iter(learnable.items()))
    model = build_model(family, settings).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    random.seed(5), torch.manual_seed(5)
    drawn = torch.get_rng_state()
    first, why = validation_loss(model, opened, settings.stage, name, CPU, ALONE)
    assert why is None
    assert first is not None
    assert first > 0
    assert torch.equal(torch.get_rng_state(), drawn)
    assert not model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    torch.manual_seed(6)
    assert validation_loss(model, opened, settings.stage, name, CPU, ALONE)[0] == first
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
    assert validation_loss(model, opened, settings.stage, name, CPU, ALONE)[0] != first
    none = settings.replace(
        stage=settings.stage.replace(
            validation={key: entry.replace(loss_on=0) for key, entry in settings.stage.validation.items()}
        )
    )
    assert learnable_sets(family, none, names) == {}
