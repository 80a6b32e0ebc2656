"""Own data in every format of conversations: found, drawn as the language model reads it, stepped once, and asked."""

from pathlib import Path

import pytest
import torch
from mmcore.contract.protocols import DataContext
from mmcore.contract.values import Draw
from mmcore.data.formats.registry import Formats
from mmcore.runs.own import with_own
from mmcore.show.batch import draw_batch
from mmcore_visper import family
from mmcore_visper.build import build as build_model
from mmcore_visper.data import build
from mmcore_visper.recipes import stages

FORMATS = Formats.of()
FINETUNE = next(stage for stage in stages("tiny") if stage.name == "finetune")
SERVING = [name for name in FORMATS.serving(family().learns) if FORMATS[name].sample]


@pytest.fixture(scope="module")
def model():
    """A tiny VisPer-LM, whose weights no test changes."""
    torch.manual_seed(0)
    return build_model(FINETUNE, "tiny")


@pytest.mark.parametrize("name", SERVING)
def test_a_sample_of_the_format_is_drawn_stepped_and_asked(tmp_path: Path, name: str, model) -> None:
    write = FORMATS[name].sample
    assert write is not None
    written = write(tmp_path)
    file = f"{{annotations: '{written.annotations or '.'}', images: '{written.images}'}}"
    (tmp_path / "own.yaml").write_text(f"name: mine\ntrain: {file}\nval: {file}\n")
    stage, notes = with_own(FINETUNE, tmp_path / "own.yaml", FORMATS, family().learns, tmp_path / "cache")
    assert stage.data.sources["mine"].format == name
    assert not notes
    context = DataContext(tmp_path, tmp_path / "cache", "tiny", 0)
    data = build(stage, "train", context)
    batch = data.collate["mine"]([data.sources["mine"].sample(Draw("mine", position, 7)) for position in range(2)], 0)
    assert len(draw_batch(batch, data.collate["mine"])) == 2
    total = sum(loss.total for loss in model.train()(batch).values())
    assert torch.isfinite(total)
    total.backward()
    model.zero_grad(set_to_none=True)
    asked = build(stage, "val", context)
    question = asked.sources["mine_val"].questions[0]
    assert question.image is not None
    assert question.answers[0].strip()
    assert "<bbox>" not in question.answers[0]
