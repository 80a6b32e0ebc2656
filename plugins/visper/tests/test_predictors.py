"""The perceiver that reads hidden states, and what it may see of them."""

import pytest
import torch
from mmcore.errors import ShapeError
from mmcore_visper.config import TINY, TaskConfig
from mmcore_visper.predictors import PerceiverAttention, Predictor, TaskTokens, spread
from mmcore_visper.views import constant_view, image_view


def test_queries_common_to_a_batch_give_what_repeated_ones_give():
    predictor = Predictor(TINY, TINY.task("depth"))
    tokens, queries = torch.randn(3, 20, TINY.width), torch.randn(1, 64, TINY.width)
    together, repeated = predictor(tokens, queries), predictor(tokens, queries.expand(3, -1, -1))
    torch.testing.assert_close(together, repeated, rtol=1e-5, atol=1e-6)


def test_attention_is_the_published_formula():
    attention = PerceiverAttention(12, 5, 3)
    x, z = torch.randn(2, 7, 12), torch.randn(2, 4, 12)
    normed, own = attention.norm_tokens(x), attention.norm_queries(z)
    k, v = attention.to_kv(torch.cat([normed, own], 1)).chunk(2, -1)
    q, k, v = (t.unflatten(-1, (3, 5)).transpose(1, 2) for t in (attention.to_q(own), k, v))
    weights = ((q * 5**-0.25) @ (k * 5**-0.25).transpose(2, 3)).softmax(-1)
    expected = attention.to_out((weights @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x, z), expected, rtol=1e-5, atol=1e-6)


def test_tokens_that_are_not_allowed_change_nothing():
    attention = PerceiverAttention(12, 4, 3)
    x, z = torch.randn(1, 7, 12), torch.randn(1, 4, 12)
    allowed = torch.tensor([[True, True, False, True, False, True, True]])
    torch.testing.assert_close(attention(x, z, allowed), attention(x[:, allowed[0]], z), rtol=1e-5, atol=1e-6)


def test_queries_are_kept_tiled_or_averaged():
    given = torch.randn(2, 3, 4)
    assert spread(given, 3) is given
    assert torch.equal(spread(given, 6), torch.cat([given, given], 1))
    assert torch.equal(spread(given, 4), given.mean(1, keepdim=True).expand(-1, 4, -1))
    assert torch.equal(spread(given, 1), given.mean(1, keepdim=True))


def test_predictions_have_the_shape_of_their_targets_also_without_images():
    for task in TINY.tasks:
        predictor = Predictor(TINY, task)
        for count in (0, 2):
            queries = torch.randn(max(count, 1) if task.name != "gen" else count, 8, TINY.width)
            out = predictor(torch.randn(count, 9, TINY.width), queries[:count] if task.name == "gen" else queries[:1])
            assert out.shape == (count, *task.target_shape)


def test_a_map_is_filled_row_by_row():
    task = TaskConfig(name="seg", num_tokens=4, output_dim=3, dim_head=4)
    predictor = Predictor(TINY, task)
    tokens, queries = torch.randn(1, 5, TINY.width), torch.randn(1, 4, TINY.width)
    rows = predictor.resampler(tokens, queries)
    assert torch.equal(predictor(tokens, queries)[0, :, 1, 0], rows[0, 2])


def test_only_the_first_mlp_of_depth_is_supervised_and_all_are_shown():
    predictor = Predictor(TINY, TINY.task("depth"))
    tokens, queries = torch.randn(1, 5, TINY.width), torch.randn(1, 64, TINY.width)
    outputs = predictor.outputs(tokens, queries)
    assert len(outputs) == 4
    assert torch.equal(outputs[0], predictor(tokens, queries))
    single = Predictor(TINY.replace(use_intermediate_depth=False), TINY.task("depth"))
    assert len(single.outputs(tokens, queries)) == 1


def test_depth_and_seg_insert_means_of_consecutive_rows_and_gen_its_rows():
    tokens = TaskTokens(TINY)
    inserted, queries = tokens()
    assert {name: tuple(rows.shape) for name, rows in inserted.items()} == dict.fromkeys(inserted, (8, TINY.width))
    torch.testing.assert_close(inserted["depth"][1], tokens.depth[8:16].mean(0))
    assert torch.equal(inserted["gen"], tokens.gen)
    assert torch.equal(queries["seg"][0], tokens.seg)


def view_of(ranks, config, images=(1, 0, 1), **options):
    batch = ranks.tiny_batch(config, images, **options)
    return batch, image_view(batch.sequences, batch.image_samples, config)


@pytest.mark.parametrize("with_text", [True, False])
def test_a_predictor_sees_all_but_the_other_tasks_tokens(ranks, with_text):
    config = TINY.replace(pass_text_to_aux=with_text)
    batch, view = view_of(ranks, config)
    image = config.image_tokens
    start = 2 + image
    length = batch.sequences.shape[1]
    for k, task in enumerate(config.tasks):
        own = list(range(start + 8 * k, start + 8 * (k + 1)))
        text = list(range(start + 24, length)) if with_text else []
        assert view.allowed[task.name][1].nonzero()[:, 0].tolist() == [*range(start), *own, *text]
        assert view.own[task.name][0].tolist() == own


def test_positions_read_off_the_sequences_equal_the_published_constants(ranks):
    config = TINY.replace(published={"prompt_tokens": 2})
    # The published code slices long sequences only.
    batch = ranks.tiny_batch(config, (1, 0, 1))
    read = image_view(batch.sequences, batch.image_samples, config)
    given = constant_view(batch.sequences, batch.image_samples, config.replace(published={"prompt_tokens": None}))
    for task in config.tasks:
        assert torch.equal(read.allowed[task.name], given.allowed[task.name])
        assert torch.equal(read.own[task.name], given.own[task.name])


def test_packed_rows_show_a_predictor_the_same_tokens(ranks):
    config = TINY.replace(published={"padding_keys": "masked"})
    batch, view = view_of(ranks, config)
    packed, other = view_of(ranks, config, pack_to=400)
    assert packed.sequences.segments is not None
    states = torch.randn(3, batch.sequences.shape[1], 4)
    packed_states = torch.zeros(*packed.sequences.shape, 4)
    for here, there in zip(batch.sequences.locations, packed.sequences.locations, strict=True):
        packed_states[there.row, there.start : there.start + there.length] = states[here.row, : here.length]
    for row in range(2):
        length = int(view.real[row].sum())
        assert torch.equal(view.tokens(states)[row, :length], other.tokens(packed_states)[row, :length])
        for task in config.tasks:
            assert torch.equal(view.allowed[task.name][row, :length], other.allowed[task.name][row, :length])
            assert not other.allowed[task.name][row, length:].any()
    assert torch.equal(
        view.own_tokens(view.tokens(states), "gen"), other.own_tokens(other.tokens(packed_states), "gen")
    )


@pytest.mark.parametrize(
    ("keys", "seen", "zero"), [("zero", True, True), ("states", True, False), ("masked", False, False)]
)
def test_padding_is_zero_left_alone_or_hidden(ranks, keys, seen, zero):
    config = TINY.replace(published={"padding_keys": keys})
    batch, view = view_of(ranks, config, (1, 1))
    tokens = view.tokens(torch.ones(*batch.sequences.shape, 2))
    padding = ~view.real[0]
    assert padding.any()
    assert bool(view.allowed["gen"][0, padding].all()) is seen
    assert bool((tokens[0, padding] == 0).all()) is zero


def test_an_image_that_was_cut_is_named(ranks):
    batch = ranks.tiny_batch()
    batch.sequences.slots["image"] = batch.sequences.slots["image"][:-1]
    with pytest.raises(ShapeError, match="cut within its image"):
        image_view(batch.sequences, batch.image_samples, TINY)


def test_constant_positions_need_one_sample_a_row(ranks):
    batch = ranks.tiny_batch(pack_to=400)
    with pytest.raises(ShapeError, match="one sample a row"):
        constant_view(batch.sequences, batch.image_samples, TINY)
