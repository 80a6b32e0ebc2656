"""A published model under the names of a plain LLaVA, computed by transformers alone."""

import pytest
import torch
from mmcore.errors import WeightsError
from mmcore.language import models
from mmcore.language.llava.layout import expressible, fold, model_config
from mmcore.language.llava.names import WHOLE, kind, llava_rules
from mmcore.language.sequence import IMAGE, Encoded
from mmcore.language.splice import lay_out
from mmcore.vision.clip_vit import ClipTower
from mmcore.vision.convnext import ConvNextTower
from mmcore.vision.projectors import build_projector
from mmcore.vision.towers import build_tower
from mmcore.weights.files import write_safetensors
from mmcore.weights.maps import WeightMap
from torch import nn

EMBEDDINGS, OUTPUT = "language_model.model.embed_tokens.weight", "language_model.lm_head.weight"
LANGUAGE = {
    "model_type": "llama",
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
TOWER = ClipTower(hidden_size=24, intermediate_size=32, num_layers=3, num_heads=2, image_size=28, patch_size=7)


def small(tower=TOWER, language=LANGUAGE):
    torch.manual_seed(0)
    model = nn.Module()
    model.tower, model.projector = build_tower(tower), build_projector("mlp2x_gelu", tower.channels, 32)
    model.language = models.build(language)
    return model.eval()


def published(model):
    return WeightMap(llava_rules(TOWER)).to_published({n: t.detach() for n, t in model.state_dict().items()})


@pytest.mark.parametrize("feature", ["patch", "cls_patch"])
@pytest.mark.parametrize("kind_", ["llama", "phi3"])
def test_transformers_computes_the_same_logits_with_constant_vectors_after_the_image(tmp_path, kind_, feature):
    from transformers import LlavaForConditionalGeneration

    tower = ClipTower(**{n: getattr(TOWER, n) for n in TOWER.__dataclass_fields__} | {"select_feature": feature})
    language = LANGUAGE | {"model_type": kind_}
    model, vectors, images = small(tower, language), torch.randn(2, 32), torch.randn(1, 3, 28, 28)
    row = Encoded(torch.tensor([1, 5, IMAGE, 7, 8]).numpy(), torch.full((5,), -100).numpy())
    sequences = lay_out([row], {IMAGE: (("image", tower.num_tokens), ("more", 2))}, max_length=100)
    with torch.no_grad():
        features = {"image": model.projector(model.tower(images)), "more": vectors[None]}
        last = model.language(model.language.embed(sequences, features), sequences).last
        ours = nn.functional.linear(last, model.language.lm_head.weight)
    write_safetensors(fold(published(model), vectors, [50, 51], rows=62), tmp_path)
    config = model_config(language, tower, 60, 62, torch.float32)
    theirs, trouble = LlavaForConditionalGeneration.from_pretrained(
        None, config=_config(config), state_dict=_read(tmp_path), output_loading_info=True, dtype=torch.float32
    )
    assert not any(trouble.values())
    ids = torch.tensor([[1, 5, *[60] * tower.num_tokens, 50, 51, 7, 8]])
    with torch.no_grad():
        found = theirs.eval()(input_ids=ids, pixel_values=images).logits
    torch.testing.assert_close(found[..., :60], ours, rtol=1e-5, atol=1e-5)


def _config(entries):
    from transformers import LlavaConfig

    return LlavaConfig.from_dict(entries)


def _read(folder):
    from mmcore.weights.files import read_tensors

    return dict(read_tensors(folder))


def test_only_the_rows_of_the_vectors_change_and_the_output_layer_does_not():
    state, vectors = published(small()), torch.randn(3, 32)
    folded = fold(state, vectors, [50, 51, 55])
    changed = (state["model.embed_tokens.weight"] != folded[EMBEDDINGS]).any(1).nonzero()[:, 0].tolist()
    assert changed == [50, 51, 55]
    assert torch.equal(folded[EMBEDDINGS][changed], vectors)
    assert torch.equal(folded[OUTPUT], state["lm_head.weight"])


def test_new_rows_never_beat_a_word():
    folded = fold(published(small()), torch.randn(4, 32), range(60, 64), rows=65)
    assert folded[EMBEDDINGS].shape == folded[OUTPUT].shape == (65, 32)
    logits = torch.randn(5, 32) @ folded[OUTPUT].T
    assert (logits.argmax(1) < 60).all()


def test_a_tied_output_layer_keeps_its_words():
    tied = {name: tensor for name, tensor in published(small()).items() if name != "lm_head.weight"}
    folded = fold(tied, torch.randn(2, 32), range(2))
    assert torch.equal(folded[OUTPUT], tied["model.embed_tokens.weight"])


def test_a_name_of_no_part_is_refused_unless_the_family_leaves_it_out():
    state = published(small()) | {"model.extra.weight": torch.zeros(1)}
    with pytest.raises(WeightsError, match=r"model\.extra\.weight is no tensor of a LLaVA"):
        fold(state)
    assert fold(state, dropped=("model.extra.",)).keys() == fold(published(small())).keys()


@pytest.mark.parametrize(
    ("language", "tower", "known"),
    [
        ({"model_type": "llama"}, TOWER, True),
        ({"model_type": "phi3"}, TOWER, True),
        ({"model_type": "gemma2"}, TOWER, False),
        ({"model_type": "llama"}, ConvNextTower(), False),
        ({"model_type": "llama"}, ClipTower(select_feature="cls"), False),
    ],
)
def test_what_transformers_has_no_place_for_is_told(language, tower, known):
    assert expressible(language, tower) is known


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["model.layers.0.mlp.down_proj.weight", "model.mm_projector.0.weight"], WHOLE),
        (["model.mm_projector.0.weight"], "projector"),
        (["model.layers.0.mlp.down_proj.weight"], "language"),
        (["vision_model.pre_layrnorm.weight", "text_model.final_layer_norm.weight"], "clip"),
        (["stem.0.weight"], "convnext"),
        (["visual.trunk.stem.0.weight"], "convnext"),
    ],
)
def test_kinds_of_files_are_told_by_names(names, found):
    assert kind(names) == found


def test_a_file_of_no_kind_is_refused():
    with pytest.raises(WeightsError, match=r"1 tensors, such as backbone\.conv1\.weight"):
        kind(["backbone.conv1.weight"])
