"""EVA02: attention written out, positions, windows, weights from its own files, and a whole Pro model of small size."""

import pytest
import torch
import torch.nn.functional as F
from mmcore.errors import DataError
from mmcore_glee.config import PRO, TINY
from mmcore_glee.eva import Attention, Eva, EvaBlock, EvaVit, rotary_table, turn
from mmcore_glee.model import Glee
from mmcore_glee.recipes.lsj import layer_decay
from safetensors.torch import save_file

SMALL = {
    "eva_width": 24,
    "eva_depth": 3,
    "eva_heads": 2,
    "eva_window": 4,
    "eva_window_blocks": (0, 2),
    "eva_image_size": 128,
}
CONFIG = TINY.replace(backbone="eva", eva_drop_path=0.0, **SMALL)


def test_neighbouring_channels_turn_by_the_angle_of_their_row_or_column() -> None:
    cos, sin = rotary_table(3, 8)
    assert cos.shape == (9, 8)
    rows, columns = torch.arange(9) // 3 * 16 / 3, torch.arange(9) % 3 * 16 / 3
    angles = torch.stack([rows, rows * 0.01, columns, columns * 0.01], dim=1)  # frequencies 1 and 1/10000^(2/4)
    x = torch.randn(9, 8)
    turned = torch.view_as_complex(x.view(9, 4, 2)) * torch.polar(torch.ones(9, 4), angles)
    torch.testing.assert_close(turn(x, cos, sin), torch.view_as_real(turned).flatten(1))


def test_attention_depends_on_where_tokens_are_to_one_another_only() -> None:
    """Rotary positions: moving all tokens by one row and column changes no score."""
    cos, sin = rotary_table(6, 8)
    q, k = torch.randn(1, 8).expand(36, 8), torch.randn(1, 8).expand(36, 8)
    scores = (turn(q, cos, sin) @ turn(k, cos, sin).T).view(6, 6, 6, 6)
    torch.testing.assert_close(scores[0, 0, 2, 3], scores[1, 1, 3, 4])
    torch.testing.assert_close(scores[2, 1, 0, 4], scores[3, 2, 1, 5])
    assert (scores[0, 0, 2, 3] - scores[0, 0, 3, 2]).abs() > 1e-3


def test_filling_tokens_of_the_last_windows_are_looked_at() -> None:
    block = EvaBlock(CONFIG, 4, 0.0).eval()
    cos, sin = rotary_table(4, 12)
    x = torch.randn(1, 5, 4, 24)
    lower = F.pad(block.norm1(x)[:, 4:], (0, 0, 0, 0, 0, 3)).view(1, 16, 24)
    expected = block.attn(lower, cos, sin).view(1, 4, 4, 24)[:, :1]
    torch.testing.assert_close(block._attended(block.norm1(x), cos, sin)[:, 4:], expected)


def test_keys_have_no_bias_and_attention_is_that_of_the_formula() -> None:
    attention = Attention(24, 2).eval()
    torch.nn.init.normal_(attention.q_bias)
    torch.nn.init.normal_(attention.v_bias)
    x, (cos, sin) = torch.randn(2, 9, 24), rotary_table(3, 12)
    q, k = x @ attention.q_proj.weight.T + attention.q_bias, x @ attention.k_proj.weight.T
    v = x @ attention.v_proj.weight.T + attention.v_bias
    heads = []
    for part in (slice(0, 12), slice(12, 24)):
        scores = turn(q[..., part], cos, sin) @ turn(k[..., part], cos, sin).transpose(1, 2) / 12**0.5
        heads.append(scores.softmax(-1) @ v[..., part])
    torch.testing.assert_close(attention(x, cos, sin), attention.proj(torch.cat(heads, -1)))


def test_maps_are_at_strides_8_to_64_and_more_patches_than_positions_are_refused() -> None:
    eva = Eva(CONFIG).eval()
    with torch.no_grad():
        assert [tuple(m.shape[1:]) for m in eva(torch.randn(1, 3, 96, 128))] == [
            (64, 12, 16),
            (64, 6, 8),
            (64, 3, 4),
            (64, 2, 2),
        ]
        with pytest.raises(DataError, match=r"160x128 have more than the 64 patches"):
            eva(torch.randn(1, 3, 160, 128))


def test_rates_fall_from_block_to_block_as_published() -> None:
    decay = layer_decay(PRO.eva_depth)
    assert decay["backbone.net.blocks.23"] == pytest.approx(0.8)
    assert decay["backbone.net.blocks.0"] == pytest.approx(0.8**24)
    assert decay["backbone.net.pos_embed"] == decay["backbone.net.patch_embed"] == pytest.approx(0.8**25)
    assert len(decay) == 26


@pytest.mark.parametrize("prefix", ["", "net.", "model."])
def test_a_file_of_eva02_fills_the_transformer(tmp_path, prefix: str) -> None:
    published = {name: torch.randn_like(value) for name, value in EvaVit(CONFIG).state_dict().items()}
    published |= {"cls_token": torch.zeros(1, 1, 24), "mask_token": torch.zeros(1, 1, 24)}
    published |= {"blocks.1.attn.rope.freqs_cos": torch.zeros(16, 12), "rope.freqs_sin": torch.zeros(16, 12)}
    published |= {"norm.weight": torch.ones(24), "norm.bias": torch.zeros(24), "lm_head.weight": torch.zeros(8, 24)}
    save_file({prefix + name: value for name, value in published.items()}, tmp_path / "eva.safetensors")
    model = Glee(CONFIG)
    before = model.backbone.simfp_4[0].weight.detach().clone()
    report = model.initialise(tmp_path / "eva.safetensors")
    own = model.backbone.net.state_dict()
    assert all(torch.equal(own[name], published[name]) for name in own)
    assert torch.equal(model.backbone.simfp_4[0].weight, before)
    assert sorted(report.filled) == sorted(f"backbone.net.{name}" for name in own)


def test_a_published_pro_file_is_written_with_its_rotary_tables_and_read_back() -> None:
    model = Glee(CONFIG)
    published = model.published().to_published(model.state_dict())
    tables = [name for name in published if name.endswith(("freqs_cos", "freqs_sin"))]
    assert len(tables) == 2 * (2 + 3)
    window, whole = "glee.backbone.net.rope_win.freqs_cos", "glee.backbone.net.rope_glb.freqs_cos"
    assert torch.equal(published["glee.backbone.net.blocks.0.attn.rope.freqs_cos"], published[window])
    assert torch.equal(published["glee.backbone.net.blocks.1.attn.rope.freqs_cos"], published[whole])
    state, report = Glee(CONFIG).published().to_ours(published, model.state_dict())
    assert not report.new
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())
