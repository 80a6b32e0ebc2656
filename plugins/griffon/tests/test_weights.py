"""Published names: whole files in and out, for every published size."""

import json
from pathlib import Path

import pytest
import torch
from mmcore.errors import WeightsError
from mmcore_griffon import weights
from mmcore_griffon.config import VARIANTS
from mmcore_griffon.model import Griffon

KEYS = {
    "g-gemma2-9b": "griffon_g_gemma2_9b",
    "g-gemma2-27b": "griffon_g_gemma2_27b",
    "g-llama2-7b": "griffon_g_llama2_7b",
    "v1-llama2-13b": "griffon_v1_13b",
    "v2-llama2-13b": "griffon_v2_13b",
    "qwen25-7b": "griffon_qwen25_7b",
}


@pytest.mark.parametrize("variant", KEYS)
def test_published_key_lists_are_read_and_written_whole(shared: Path, variant: str) -> None:
    with torch.device("meta"):
        model = Griffon(VARIANTS[variant])
        listed = json.loads((shared / f"goldens/griffon/keys_{KEYS[variant]}/keys.json").read_text())
        tensors = {name: torch.empty(shape) for name, (_, shape) in listed.items()}
    names = weights.upstream(VARIANTS[variant])
    state, report = names.to_ours(tensors, model.state_dict())
    assert not report.new
    assert set(state) == set(model.state_dict())
    written = names.to_published(model.state_dict())
    assert {name: tuple(tensor.shape) for name, tensor in written.items()} | {"lm_head.weight": ()} == {
        name: tuple(tensor.shape) for name, tensor in tensors.items()
    } | {"lm_head.weight": ()}
    assert ("lm_head.weight" in written) != VARIANTS[variant].language["tie_word_embeddings"]


def test_a_file_without_region_tokenizer_leaves_it_new() -> None:
    model = Griffon(VARIANTS["tiny"])
    published = model.published().to_published(model.state_dict())
    without = {name: tensor for name, tensor in published.items() if ".prompt_" not in name}
    _, report = model.published_parts(without).to_ours(without, model.state_dict())
    assert report.new
    assert all(name.startswith("region.") for name in report.new)
    with pytest.raises(WeightsError, match="region"):
        model.published().to_ours(without, model.state_dict())


def test_positions_of_another_resolution_are_resized_when_read() -> None:
    small = VARIANTS["tiny"].replace(tower={"image_size": 56})
    model, source = Griffon(VARIANTS["tiny"]), Griffon(small)
    published = source.published().to_published(source.state_dict())
    state, _ = model.published().to_ours(published, model.state_dict())
    assert state["tower.position_embedding.weight"].shape == (65, 96)
