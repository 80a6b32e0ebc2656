"""Griffon itself: what a picture and a visual prompt become among the words."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmcore.contract.protocols import DataContext
from mmcore.contract.values import CROP, MAIN, ConversationSample, Draw, Encoded
from mmcore.language.batch import ConversationBatch
from mmcore.language.conversation import TurnMask
from mmcore.language.conversation_templates import template
from mmcore.language.sequence import IGNORE, IMAGE, REGION
from mmcore_griffon import family
from mmcore_griffon.config import VARIANTS, GriffonConfig
from mmcore_griffon.data import build
from mmcore_griffon.data.demo import write_demo
from mmcore_griffon.data.formats import FORMATS
from mmcore_griffon.model import Griffon
from mmcore_griffon.stages import stages

TINY = [variant for variant in family().variants if variant.startswith("tiny")]


def sample(config: GriffonConfig, ids: list[int], seed: int = 0) -> ConversationSample:
    """Words, with a picture and a crop where the ids ask for them."""
    generator = torch.Generator().manual_seed(seed)
    images = {
        role: (torch.randn(3, side, side, generator=generator),)
        for role, side, marker in ((MAIN, config.image_size, IMAGE), (CROP, config.region_size, REGION))
        if marker in ids
    }
    labels = [IGNORE if token < 0 else token for token in ids]
    encoded = Encoded(np.array(ids), np.array(labels))
    return ConversationSample(encoded, (), images, Draw("test", seed, seed), seed, (0, 0))


def batch_of(config: GriffonConfig, *samples: ConversationSample, **layout: str) -> ConversationBatch:
    processor = config.processor(None)
    return config.collator(processor, **layout)(samples, 0)


def test_every_published_picture_has_its_number_of_rows() -> None:
    rows = {name: config.image_tokens for name, config in VARIANTS.items() if not name.startswith("tiny")}
    assert rows.pop("v1-llama2-13b") == 1024
    assert set(rows.values()) == {1369}


def test_a_conversation_version_is_griffons_own_whatever_other_families_call_theirs() -> None:
    written = template(VARIANTS["tiny"].replace(template="llava_llama_3").template)
    assert written.system == template("llava_llama_2").system
    assert isinstance(written.mask, TurnMask)


@pytest.mark.parametrize("variant", TINY)
def test_a_visual_prompt_is_one_token_between_the_words(variant: str) -> None:
    config = VARIANTS[variant]
    torch.manual_seed(0)
    model = Griffon(config).eval()
    mixed = batch_of(
        config, sample(config, [1, IMAGE, 5, REGION, 6], 1), sample(config, [1, IMAGE, 7], 2), sample(config, [1, 8], 3)
    )
    rows = model.spliced(mixed)
    assert rows["image"].shape == (2, config.image_tokens, config.width)
    assert rows["region"].shape == (1, 1, config.width)
    assert torch.isfinite(model(mixed)["text"].total)


@pytest.mark.parametrize("variant", TINY)
@torch.no_grad()
def test_another_samples_picture_changes_nothing(variant: str) -> None:
    config = VARIANTS[variant]
    torch.manual_seed(0)
    model = Griffon(config).eval()
    first = sample(config, [1, IMAGE, 5, REGION, 6, 9], 1)
    alone = model(batch_of(config, first))["text"].total
    others = [sample(config, [1, IMAGE, 5], seed) for seed in (2, 3)]
    both = [model(batch_of(config, first, other))["text"].total for other in others]
    own = [model(batch_of(config, other))["text"].total for other in others]
    for together, apart in zip(both, own, strict=True):
        assert float(together) == pytest.approx(float(alone + apart), rel=1e-5)


def test_padding_is_the_unknown_token_where_there_is_one(tmp_path: Path) -> None:
    tokenizer = Griffon(VARIANTS["tiny"]).tokenizer
    assert tokenizer.pad_token == "<pad>"
    tokenizer.add_special_tokens({"unk_token": "<unk>"})
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    named = {"tokenizer": str(tmp_path / "tokenizer")}
    stage = stages("tiny")[0].replace(model={**stages("tiny")[0].model, **named})
    root = write_demo(tmp_path, train=1, val=1)
    built = build(stage, "train", DataContext(root=root, cache=tmp_path, variant="tiny", seed=0, formats=FORMATS))
    read = built.sources["captions"].processor.tokenizer  # type: ignore[attr-defined]
    assert read.pad_token == Griffon(VARIANTS["tiny"].replace(**named)).tokenizer.pad_token == "<unk>"


def test_without_an_encoder_of_its_own_a_visual_prompt_is_a_second_picture() -> None:
    config = VARIANTS["tiny"].replace(region_tower=None)
    pictures = torch.randn(2, 3, config.image_size, config.image_size)
    encoded = Encoded(np.array([1, IMAGE, 5, REGION, 6]), np.array([IGNORE] * 5))
    one = ConversationSample(encoded, (), {MAIN: tuple(pictures)}, Draw("test", 0, 0), 0, (0, 0))
    batch = batch_of(config, one)
    assert batch.sequences.shape == (1, 3 + 2 * config.image_tokens)
    assert torch.isfinite(Griffon(config).eval()(batch)["text"].total)
