"""Splicing: where words, features and padding stand, and what the language model reads."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmcore.errors import DataError, RecipeError, ShapeError
from mmcore.language.sequence import IGNORE, IMAGE, REGION, Encoded, Location
from mmcore.language.splice import embed, lay_out
from safetensors.torch import load_file
from torch import nn

EXPANSION = {IMAGE: (("image", 3), ("task", 2)), REGION: (("region", 1),)}


def sample(*ids: int, learned: int = 2) -> Encoded:
    """A sample whose last `learned` tokens are learned."""
    labels = np.full(len(ids), IGNORE)
    labels[len(ids) - learned :] = ids[len(ids) - learned :]
    return Encoded(np.array(ids), labels)


def random_samples(count: int, seed: int = 0) -> list[Encoded]:
    rng = np.random.default_rng(seed)
    samples = []
    for _ in range(count):
        ids = rng.integers(1, 50, rng.integers(4, 12))
        if rng.random() < 0.7:
            ids[rng.integers(1, 3)] = IMAGE
        if rng.random() < 0.3:
            ids[3] = REGION
        samples.append(Encoded(ids, np.where((ids < 0) | (rng.random(len(ids)) < 0.4), IGNORE, ids)))
    return samples


def symbols(samples: list[Encoded]) -> dict[str, torch.Tensor]:
    """Features that say which they are: 1000 + i for the i-th image row, and so on."""
    images = sum(int((s.ids == IMAGE).sum()) for s in samples)
    regions = sum(int((s.ids == REGION).sum()) for s in samples)
    return {
        "image": 1000 + torch.arange(images * 3.0).view(images, 3, 1),
        "task": 2000 + torch.arange(images * 2.0).view(images, 2, 1),
        "region": 3000 + torch.arange(regions * 1.0).view(regions, 1),
    }


def one_by_one(samples: list[Encoded]) -> tuple[list[list[float]], list[list[int]]]:
    """What the published loop over samples and placeholders gives: symbols and labels, unpadded."""
    rows, labels, images, regions = [], [], 0, 0
    for s in samples:
        row: list[float] = []
        label: list[int] = []
        for token, learned in zip(s.ids.tolist(), s.labels.tolist(), strict=True):
            if token == IMAGE:
                row += [1000 + images * 3 + i for i in range(3)] + [2000 + images * 2 + i for i in range(2)]
                label += [IGNORE] * 5
                images += 1
            elif token == REGION:
                row.append(3000 + regions)
                label.append(IGNORE)
                regions += 1
            else:
                row.append(token)
                label.append(learned)
        rows.append(row)
        labels.append(label)
    return rows, labels


def identity(words: int = 100) -> nn.Embedding:
    """An embedding whose vector is the id."""
    return nn.Embedding.from_pretrained(torch.arange(float(words))[:, None])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("layout", [{}, {"padding_side": "left"}, {"pack_to": 40}, {"max_length": 7}])
def test_every_layout_holds_what_the_loop_over_samples_gives(seed: int, layout: dict) -> None:
    samples = random_samples(6, seed)
    rows, labels = one_by_one(samples)
    sequences = lay_out(samples, EXPANSION, **layout)
    embeds = embed(sequences, identity(), symbols(samples))[..., 0]
    longest = layout.get("max_length", 10**6)
    flat = torch.full((sequences.ids.numel(),), IGNORE)
    flat[sequences.supervised + 1] = sequences.targets
    for i, place in enumerate(sequences.locations):
        inside = slice(place.start, place.start + place.length)
        assert embeds[place.row, inside].tolist() == rows[i][:longest]
        assert flat.view(sequences.shape)[place.row, inside].tolist()[1:] == labels[i][1:longest]
        assert sequences.positions[place.row, inside].tolist() == list(range(place.length))
        assert sequences.cut[i] == max(0, len(rows[i]) - longest)
    assert int(sequences.valid.sum()) == sum(min(len(row), longest) for row in rows)
    assert (embeds[~sequences.valid] == 0).all()


def test_a_feature_is_cut_with_its_sample_and_the_next_samples_keep_theirs() -> None:
    samples = [sample(5, 6, IMAGE, 7, 8), sample(5, IMAGE, 9, 9)]
    sequences = lay_out(samples, EXPANSION, max_length=4)
    features = symbols(samples)
    features["image"].requires_grad_()
    embeds = embed(sequences, identity(), features)
    assert embeds[..., 0].tolist() == [[5, 6, 1000, 1001], [5, 1003, 1004, 1005]]
    assert sequences.cut == (5, 4)
    embeds.sum().backward()
    assert features["image"].grad is not None
    assert features["image"].grad.flatten().tolist() == [1, 1, 0, 1, 1, 1]


def test_packed_rows_hold_samples_apart_and_waste_less() -> None:
    samples = [sample(*range(1, n + 1)) for n in (9, 3, 5, 7)]
    sequences = lay_out(samples, {}, pack_to=12)
    assert sequences.shape == (2, 12)
    assert sequences.padding == 0
    assert sequences.segments is not None
    for i, place in enumerate(sequences.locations):
        inside = sequences.segments[place.row, place.start : place.start + place.length]
        assert len(set(inside.tolist())) == 1
        others = [other for j, other in enumerate(sequences.locations) if j != i and other.row == place.row]
        assert all(place.start >= o.start + o.length or o.start >= place.start + place.length for o in others)


def test_packing_wastes_no_more_than_padding_and_keeps_rows_short() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        samples = [sample(*range(1, n + 1)) for n in rng.integers(3, 60, rng.integers(1, 20))]
        padded, packed = lay_out(samples, {}), lay_out(samples, {}, pack_to=128)
        assert packed.shape[1] <= 128
        assert packed.ids.numel() <= padded.ids.numel()
        assert int(packed.valid.sum()) == int(padded.valid.sum())
    equal = lay_out([sample(*range(1, 9))] * 6, {}, pack_to=128)
    assert equal.shape == (6, 8)


def test_samples_that_fill_rows_exactly_fill_them() -> None:
    samples = [sample(*range(1, n + 1)) for n in (6, 4, 4, 3, 3)]
    sequences = lay_out(samples, {}, pack_to=10)
    assert sequences.shape == (2, 10)
    assert sequences.padding == 0


def test_the_last_token_of_a_sample_never_predicts_the_next_sample() -> None:
    samples = [sample(1, 2, 3, learned=3), sample(4, 5, 6, learned=3)]
    sequences = lay_out(samples, {}, pack_to=6)
    assert sequences.targets.tolist() == [2, 3, 5, 6]
    assert sequences.supervised.tolist() == [0, 1, 3, 4]


def test_watched_tokens_are_found_in_sample_order() -> None:
    samples = [sample(1, 9, IMAGE, 9), sample(9, 2, 3)]
    sequences = lay_out(samples, EXPANSION, padding_side="left", watch={"[SEG]": 9, "absent": 77})
    length = sequences.shape[1]
    assert sequences.found["[SEG]"].tolist() == [1, 7, 2 * length - 3]
    assert sequences.found["absent"].tolist() == []


def test_a_vocabulary_id_may_be_a_placeholder() -> None:
    sequences = lay_out([sample(1, 32, 3, 32, 4)], {32: (("region", 1),)})
    embeds = embed(sequences, identity(), {"region": torch.tensor([[7.5], [8.5]])})
    assert embeds.flatten().tolist() == [1, 7.5, 3, 8.5, 4]
    assert sequences.ids.tolist() == [[1, 0, 3, 0, 4]]


def test_a_kind_without_slots_stays_in_the_graph_with_a_gradient_of_zero() -> None:
    sequences = lay_out([sample(1, 2, 3)], EXPANSION)
    projector = nn.Linear(2, 1)
    features = {"image": projector(torch.zeros(0, 2)), "task": torch.zeros(0, 1), "region": torch.zeros(0, 1)}
    embed(sequences, identity(), features).sum().backward()
    assert projector.weight.grad is not None
    assert projector.weight.grad.abs().sum() == 0


def test_words_under_features_and_padding_get_no_gradient() -> None:
    samples = [sample(1, IMAGE, 2), sample(1, 2, 3)]
    words = nn.Embedding(5, 1)
    features = symbols(samples)
    embed(lay_out(samples, EXPANSION), words, features).sum().backward()
    assert words.weight.grad is not None
    assert words.weight.grad.flatten().tolist() == [0, 2, 2, 1, 0]


def test_the_scale_of_features_is_rounded_like_the_published_one() -> None:
    sequences = lay_out([sample(1, REGION, 2)], EXPANSION)
    words = identity().to(torch.bfloat16)
    features = {"region": torch.tensor([[3.0]]), "image": torch.zeros(0, 1), "task": torch.zeros(0, 1)}
    embeds = embed(sequences, words, features, scale=3584**0.5)
    assert embeds[0, 1, 0] == torch.tensor(3.0, dtype=torch.bfloat16) * torch.tensor(3584**0.5, dtype=torch.bfloat16)
    assert embeds[0, 0, 0] == 1


def test_sequences_know_their_padding_without_the_tensors() -> None:
    sequences = lay_out([sample(1, 2, 3, 4), sample(1, 2)], {})
    assert sequences.locations == (Location(0, 0, 4), Location(1, 0, 2))
    assert sequences.padding == 0.25


def test_an_unknown_placeholder_names_sample_and_known_ones() -> None:
    with pytest.raises(DataError, match=r"-300(.|\n)*sample 1(.|\n)*-200"):
        lay_out([sample(1, 2, 3), sample(1, REGION, 3)], {IMAGE: (("image", 3),)})


def test_a_sample_without_tokens_is_an_error() -> None:
    with pytest.raises(DataError, match=r"sample 1"):
        lay_out([sample(1, 2), Encoded(np.zeros(0, np.int64), np.zeros(0, np.int64))], {})


def test_a_sample_longer_than_a_packed_row_is_an_error() -> None:
    with pytest.raises(RecipeError, match=r"7 positions does not fit a packed row of 6"):
        lay_out([sample(1, IMAGE, 2)], EXPANSION, pack_to=6)


def test_too_few_or_too_many_features_are_an_error_with_both_counts() -> None:
    samples = [sample(1, IMAGE, 2)]
    sequences = lay_out(samples, EXPANSION)
    features = symbols(samples)
    for wrong in (torch.zeros(2, 1), torch.zeros(4, 1)):
        with pytest.raises(ShapeError, match=rf"{len(wrong)} features of kind 'image' for 3 slots"):
            embed(sequences, identity(), {**features, "image": wrong})
    with pytest.raises(ShapeError, match=r"0 features of kind 'task' for 2 slots"):
        embed(sequences, identity(), {"image": features["image"]})
    with pytest.raises(ShapeError, match=r"kind 'sound'"):
        embed(sequences, identity(), {**features, "sound": torch.zeros(1, 1)})


@pytest.mark.parametrize("case", ["splice_right", "splice_right_cut", "splice_left", "splice_left_cut"])
def test_griffons_published_splicing(shared: Path, case: str) -> None:
    stored = load_file(shared / "goldens/griffon" / case / "tensors.safetensors")
    samples, images, regions = [], [], []
    for i in range(len(stored["input_ids"])):
        here = stored["attention_mask"][i].bool()
        ids, labels = stored["input_ids"][i][here].numpy(), stored["labels"][i][here].numpy()
        places = np.flatnonzero(ids == IMAGE)
        ids[places[1::2]] = REGION
        images += [1000.0 * (i + 1) + torch.arange(5.0)] * len(places[::2])
        regions += [torch.tensor([-1000.0 * (i + 1)])] * len(places[1::2])
        samples.append(Encoded(ids, labels))
    sequences = lay_out(
        samples,
        {IMAGE: (("image", 5),), REGION: (("region", 1),)},
        padding_side="left" if "left" in case else "right",
        max_length=9 if "cut" in case else None,
    )
    features = {"image": torch.stack(images)[..., None], "region": torch.stack(regions)[..., None]}
    assert torch.equal(embed(sequences, identity(), features)[..., 0], stored["embeds"])
    assert torch.equal(sequences.valid, stored["out_attention_mask"].bool())
