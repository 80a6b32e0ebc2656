"""Sizes and switches: what a recipe may change, and the published configuration in both directions."""

import pytest
from mmcore.errors import RecipeError, WeightsError
from mmcore.language.sequence import IMAGE
from mmcore.vision.clip_vit import ClipTower
from mmcore_visper.config import LLAMA3_VIT, LLAVA15, PHI3_CONVNEXT, TINY, VARIANTS
from mmcore_visper.published_config import from_published, to_published


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "tiny"])
@pytest.mark.parametrize("changes", [{}, {"predictors": False, "image_aspect": "pad"}], ids=["pt", "ift"])
def test_a_published_configuration_comes_back_from_its_own_json(name, changes):
    config = VARIANTS[name].replace(tokenizer="", **changes)
    read = from_published(to_published(config))
    again = to_published(read)
    assert again == to_published(config)
    assert (read.expansion, read.predictors) == (config.expansion, config.predictors and bool(config.tasks))


def test_an_image_becomes_patches_and_the_task_tokens_in_the_order_of_the_tasks():
    assert LLAMA3_VIT.expansion == {IMAGE: (("image", 576), ("gen", 8), ("depth", 8), ("seg", 8))}
    assert PHI3_CONVNEXT.image_tokens == 576
    assert LLAVA15.expansion == {IMAGE: (("image", 576),)}
    whole = LLAMA3_VIT.replace(task_token_format="emb")
    assert whole.expansion == {IMAGE: (("image", 576), ("gen", 8), ("depth", 576), ("seg", 576))}


def test_phi3s_window_is_one_wider_here_than_in_its_published_file():
    assert PHI3_CONVNEXT.language["sliding_window"] == 2048
    assert to_published(PHI3_CONVNEXT)["sliding_window"] == 2047


def test_a_published_configuration_without_a_token_format_inserts_whole_rows_after_pt_and_means_in_pt():
    published = to_published(LLAMA3_VIT)
    del published["task_token_format"]
    assert from_published(published).task_token_format == "expand_emb"
    assert from_published({**published, "model_type": "llava_llama"}).task_token_format == "emb"


def test_layers_are_two_numbers_and_no_range():
    published = to_published(LLAMA3_VIT)
    assert published["image_depth"]["depth_layer_indices"] == "18-20"
    assert from_published(published).task("depth").layers == (18, 20)


def test_probes_keep_their_task_tokens_unless_told_otherwise():
    probe = LLAMA3_VIT.replace(probe="seg", predictors=False)
    assert len(probe.task_tokens) == 3
    assert probe.replace(published={"probe_task_tokens": False}).task_tokens == ()


def test_recipes_change_single_entries_of_nested_parts():
    config = TINY.replace(
        language={"vocab_size": 77}, tower={"num_layers": 2}, tasks=["depth", {"name": "gen", "weight": 2.0}]
    )
    assert (config.language["vocab_size"], config.language["hidden_size"]) == (77, TINY.width)
    assert isinstance(config.tower, ClipTower)
    assert (config.tower.num_layers, config.tower.hidden_size) == (2, TINY.tower.hidden_size)
    assert [(task.name, task.weight, task.output_dim) for task in config.tasks] == [
        ("depth", 0.5, 32),
        ("gen", 2.0, 32),
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_task_token": 4}, "num_task_tokens"),
        ({"tower": {"hiden_size": 4}}, "hidden_size"),
        ({"tasks": ["dept"]}, "unknown task"),
        ({"tasks": ["gen", "gen"]}, "named twice"),
        ({"num_task_tokens": 7}, "7 task tokens"),
        ({"tasks": [{"name": "gen", "layers": [9]}]}, "reads layer 9"),
        ({"published": {"padding_keys": "none"}}, "padding_keys"),
        ({"published": {"release_masks": True}}, "released_masks"),
        ({"probe": "pose"}, "probe"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(changes, said):
    with pytest.raises(RecipeError, match=said):
        TINY.replace(**changes)


def test_an_unknown_tower_or_projector_of_a_published_file_is_named():
    published = to_published(LLAMA3_VIT)
    with pytest.raises(WeightsError, match="siglip"):
        from_published({**published, "mm_vision_tower": "google/siglip"})
    with pytest.raises(WeightsError, match="mm_projector_type"):
        from_published({**published, "mm_projector_type": "perceiver"})
