"""Single boxes of GLEE's figure against plain references."""

import pytest
import torch
import torch.nn.functional as F
from mmcore_glee.backbone import FrozenBatchNorm, ResNet
from mmcore_glee.batch import GleeBatch
from mmcore_glee.config import TINY
from mmcore_glee.deformable import DeformableAttention, sample
from mmcore_glee.denoising import LabelEmbeddings, make_denoising
from mmcore_glee.fusion import Fusion
from mmcore_glee.outputs import Draws
from mmcore_glee.prompt import crop_around, fill_boxes, mask_boxes
from mmcore_glee.query_decoder import SelfAttention, proposals
from torch import nn

SHAPES = ((6, 8), (3, 4), (2, 2))


def sample_with_grids(value, points, weights, shapes):
    """The textbook form: one grid_sample per level, everything held at once."""
    batch, _, heads, channels = value.shape
    queries = points.shape[1]
    result = torch.zeros(batch, heads, channels, queries, dtype=value.dtype)
    start = 0
    for level, (height, width) in enumerate(shapes):
        table = value[:, start : start + height * width].permute(0, 2, 3, 1)
        table = table.reshape(batch * heads, channels, height, width)
        start += height * width
        size = torch.tensor([width, height], dtype=value.dtype)
        grid = (points[:, :, :, level] + 0.5) / size * 2 - 1
        sampled = F.grid_sample(table, grid.transpose(1, 2).flatten(0, 1), align_corners=False)
        weight = weights[:, :, :, level].transpose(1, 2).reshape(batch * heads, 1, queries, -1)
        result += (sampled * weight).sum(-1).view(batch, heads, channels, queries)
    return result.permute(0, 3, 1, 2).flatten(2)


def test_deformable_sampling_equals_grid_sampling_with_all_gradients():
    generator = torch.Generator().manual_seed(0)
    pixels = sum(h * w for h, w in SHAPES)
    value = torch.randn(2, pixels, 2, 5, dtype=torch.float64, generator=generator)
    # Some points lie outside, some far outside.
    points = torch.randn(2, 7, 2, 3, 4, 2, dtype=torch.float64, generator=generator) * 4 + 2
    points[0, 1] = 1e6
    weights = torch.rand(2, 7, 2, 3, 4, dtype=torch.float64, generator=generator)
    upstream = torch.randn(2, 7, 10, dtype=torch.float64, generator=generator)
    results = []
    for function in (sample, sample_with_grids):
        inputs = [tensor.clone().requires_grad_() for tensor in (value, points, weights)]
        out = function(*inputs, SHAPES)
        results.append([out, *torch.autograd.grad(out, inputs, upstream)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_a_point_that_is_not_finite_reads_inside_the_table_and_harms_its_own_query_only(broken):
    value = torch.randn(1, 52, 1, 3, requires_grad=True)
    points = torch.rand(1, 2, 1, 2, 2, 2)
    points[0, 1, 0, 1, 1] = broken
    points.requires_grad_()
    weights = torch.rand(1, 2, 1, 2, 2, requires_grad=True)
    out = sample(value, points, weights, ((6, 8), (2, 2)))
    out.nan_to_num().sum().backward()
    assert out[0, 0].isfinite().all()
    assert out[0, 1].isnan().all() == (broken != broken)


def test_deformable_sampling_passes_the_numerical_gradient_check():
    value = torch.randn(1, 6, 1, 2, dtype=torch.float64, requires_grad=True)
    points = (torch.rand(1, 2, 1, 1, 2, 2, dtype=torch.float64) * 1.8 + 0.05).requires_grad_()
    weights = torch.rand(1, 2, 1, 1, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v, p, w: sample(v, p, w, ((2, 3),)), (value, points, weights))


def test_fresh_deformable_attention_looks_in_a_different_direction_per_head():
    offsets = DeformableAttention(32, 2, 4, 3).sampling_offsets.bias.view(4, 2, 3, 2)
    assert torch.allclose(offsets[0, 0, 0], torch.tensor([1.0, 0.0]), atol=1e-6)
    assert torch.allclose(offsets[1, 1, 2], torch.tensor([0.0, 3.0]), atol=1e-6)
    assert offsets.abs().amax(-1).allclose(torch.tensor([1.0, 2.0, 3.0]).expand(4, 2, 3))


def test_the_backbone_equals_torchvision_with_frozen_norms():
    from torchvision.models.resnet import Bottleneck
    from torchvision.models.resnet import ResNet as Reference
    from torchvision.ops import FrozenBatchNorm2d

    torch.manual_seed(0)
    reference = Reference(Bottleneck, [1, 2, 1, 1], norm_layer=FrozenBatchNorm2d).eval()
    config = TINY.replace(resnet_depths=(1, 2, 1, 1), resnet_stem=64, resnet_width=64, resnet_out=256)
    ours = ResNet(config).eval()
    state = {name: tensor for name, tensor in reference.state_dict().items() if not name.startswith("fc.")}
    for name, tensor in state.items():
        if "bn" in name or "downsample.1" in name:
            tensor.copy_(torch.rand_like(tensor) + 0.5)
    ours.load_state_dict(state)
    images = torch.randn(2, 3, 64, 96)
    x = reference.maxpool(reference.relu(reference.bn1(reference.conv1(images))))
    for feature, layer in zip(ours(images), (reference.layer1, reference.layer2, reference.layer3, reference.layer4)):
        x = layer(x)
        torch.testing.assert_close(feature, x, rtol=1e-4, atol=1e-4)


def test_activations_of_a_fresh_backbone_stay_of_order_one():
    torch.manual_seed(0)
    backbone = ResNet(TINY.replace(resnet_depths=(3, 4, 6, 3)))
    for feature in backbone(torch.randn(1, 3, 64, 64)):
        assert 0.2 < float(feature.detach().std()) < 5


def test_frozen_norms_hold_no_parameter():
    assert not list(FrozenBatchNorm(4).parameters())
    assert set(FrozenBatchNorm(4).state_dict()) == {"weight", "bias", "running_mean", "running_var"}


def test_fusion_equals_attention_written_out():
    torch.manual_seed(0)
    fusion = Fusion(16, 32, 4, dropout=0.1).eval()
    visual, text = torch.randn(2, 9, 16), torch.randn(2, 5, 16)
    attention = fusion.attention
    v, t = fusion.visual_norm(visual), fusion.text_norm(text)
    query, key = (x.view(2, -1, 4, 8).transpose(1, 2) for x in (attention.query(v) / 8**0.5, attention.key(t)))
    scores = query @ key.transpose(-1, -2)
    from_text = scores.softmax(-1) @ attention.text_value(t).view(2, -1, 4, 8).transpose(1, 2)
    from_pixels = scores.transpose(-1, -2).softmax(-1) @ attention.visual_value(v).view(2, -1, 4, 8).transpose(1, 2)
    expected = v + fusion.visual_scale * attention.visual_out(from_text.transpose(1, 2).flatten(2))
    torch.testing.assert_close(fusion(visual, text), expected)
    expected = t + fusion.text_scale * attention.text_out(from_pixels.transpose(1, 2).flatten(2))
    torch.testing.assert_close(fusion.fuse_text(visual, text), expected)


def test_fusion_with_dropout_equals_attention_written_out_where_nothing_is_dropped(monkeypatch):
    """On a CPU dropout has no fused kernel, and projections of the pixels are folded into the text."""
    torch.manual_seed(0)
    fusion = Fusion(16, 32, 4, dropout=0.1)
    torch.nn.init.normal_(fusion.attention.query.bias)
    torch.nn.init.normal_(fusion.attention.visual_out.bias)
    visual, text = (torch.randn(2, n, 16, requires_grad=True) for n in (9, 5))
    inputs = [visual, text, *(p for name, p in fusion.named_parameters() if "key.bias" not in name)]
    results = []
    monkeypatch.setattr(torch.nn.functional, "dropout", lambda x, p: x)
    for mode in (True, False):
        fused = fusion.train(mode)(visual, text)
        results.append((fused, torch.autograd.grad(fused.square().sum(), inputs, allow_unused=True)))
    (folded, ours), (fused, theirs) = results
    torch.testing.assert_close(folded, fused)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_fusion_drops_attention_only_while_training():
    fusion = Fusion(16, 32, 4, dropout=0.5)
    visual, text = torch.randn(1, 4, 16), torch.randn(1, 6, 16)
    assert not torch.equal(fusion.train()(visual, text), fusion(visual, text))
    assert torch.equal(fusion.eval()(visual, text), fusion(visual, text))


def test_self_attention_equals_torch_with_prompts_as_further_queries():
    torch.manual_seed(0)
    ours, reference = SelfAttention(16, 4), nn.MultiheadAttention(16, 4, batch_first=True)
    reference.load_state_dict(ours.state_dict())
    x, position, prompt = torch.randn(2, 5, 16), torch.randn(2, 5, 16), torch.randn(2, 3, 16)
    visible = torch.rand(2, 1, 5, 8) > 0.3
    visible[..., 0] = True
    whole, places = torch.cat([x, prompt], 1), torch.cat([position, prompt], 1)
    blocked = torch.zeros(2, 8, 8, dtype=torch.bool)
    blocked[:, :5] = ~visible[:, 0]
    q = whole + places
    expected = reference(q, q, whole, attn_mask=blocked.repeat_interleave(4, 0), need_weights=False)[0][:, :5]
    torch.testing.assert_close(ours(x, position, prompt, visible), expected)


def test_proposals_near_the_border_are_invalid_and_sides_double_with_finer_levels():
    logits, valid = proposals(((2, 2), (64, 64)), torch.device("cpu"))
    assert valid[:4].all()
    assert torch.allclose(logits[0].sigmoid(), torch.tensor([0.25, 0.25, 0.05, 0.05]))
    assert torch.allclose(logits[4 + 64 * 32 + 32].sigmoid()[2:], torch.tensor([0.1, 0.1]))
    assert not valid[4]
    assert torch.isinf(logits[4]).all()


def batch(num_objects: tuple[int, ...], task: str = "coco") -> GleeBatch:
    total, images = sum(num_objects), len(num_objects)
    return GleeBatch(
        source="s",
        draws=(),
        normalisers={},
        images=torch.zeros(images, 3, 32, 32, dtype=torch.uint8),
        image_sizes=((32, 32),) * images,
        original_sizes=((32, 32),) * images,
        image_ids=tuple(range(images)),
        num_objects=num_objects,
        labels=torch.arange(total),
        boxes_cxcywh=torch.rand(total, 4) * 0.5 + 0.25,
        masks=None,
        task=task,
        names=tuple(f"name {i}" for i in range(80)),
        input_ids=torch.zeros(80, 3, dtype=torch.int64),
        attention_mask=torch.ones(80, 3, dtype=torch.int64),
    )


def test_denoising_copies_stand_at_their_slots_and_see_their_group_and_the_queries():
    tables = LabelEmbeddings(TINY.hidden_dim)
    config = TINY.replace(denoising_queries=7, denoising_noise=0.0)
    given = batch((3, 1))
    noised = make_denoising(given, tables, config, num_queries=2, draws=Draws())
    assert noised is not None
    assert (noised.groups, noised.num_slots) == (2, 6)
    embedding = tables.of_task("coco").weight
    for group in range(2):
        torch.testing.assert_close(noised.content[0, group * 3 : group * 3 + 3], embedding[:3])
        torch.testing.assert_close(noised.content[1, group * 3], embedding[3])
        assert not noised.content[1, group * 3 + 1 : group * 3 + 3].any()
    torch.testing.assert_close(noised.box_logits[0, :3].sigmoid(), given.boxes_cxcywh[:3])
    seen = noised.visible.int().tolist()
    assert seen[0] == seen[2] == [1, 1, 1, 0, 0, 0, 1, 1]
    assert seen[4] == [0, 0, 0, 1, 1, 1, 1, 1]
    assert seen[6] == seen[7] == [0, 0, 0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize("num_objects", [(0, 0), (8, 1)])
def test_without_objects_or_with_too_many_nothing_is_denoised(num_objects):
    config = TINY.replace(denoising_queries=7)
    assert make_denoising(batch(num_objects), LabelEmbeddings(8), config, 2, Draws()) is None


def test_noise_stays_within_its_share_of_the_box():
    config = TINY.replace(denoising_queries=50, denoising_noise=0.4)
    given = batch((5,))
    noised = make_denoising(given, LabelEmbeddings(8), config, 2, Draws())
    assert noised is not None
    boxes = noised.box_logits.sigmoid().view(10, 5, 4)
    moved = (boxes - given.boxes_cxcywh).abs()
    limit = given.boxes_cxcywh[:, 2:].repeat(1, 2) * torch.tensor([0.2, 0.2, 0.4, 0.4])
    assert (moved <= limit + 1e-5).all()
    assert moved.any()


def test_a_crop_equals_slicing_and_interpolation():
    torch.manual_seed(0)
    images = torch.randn(3, 3, 40, 60)
    masks = torch.zeros(3, 40, 60, dtype=torch.uint8)
    masks[0, 10:21, 20:36] = 1
    masks[1, 0:8, 50:60] = 1
    assert mask_boxes(masks)[0][:2].tolist() == [[20, 10, 35, 20], [50, 0, 59, 7]]
    crops = crop_around(images, masks, 16)
    # side = ceil(2 sqrt(15 * 10)) = 25 around (27.5, 15); ceil(2 sqrt(9 * 7)) = 16 around (54.5, 3.5), cut at the edges
    for i, region in ((0, images[:1, :, 2:27, 15:40]), (1, images[1:2, :, 0:16, 46:60])):
        expected = F.interpolate(region, (16, 16), mode="bilinear", align_corners=False)
        torch.testing.assert_close(crops[i : i + 1], expected, rtol=1e-4, atol=1e-5)
    whole = F.interpolate(images[2:], (16, 16), mode="bilinear", align_corners=False)
    torch.testing.assert_close(crops[2:], whole, rtol=1e-4, atol=1e-5)


def test_filled_boxes_leave_out_the_last_row_and_column():
    masks = torch.zeros(2, 6, 6, dtype=torch.uint8)
    masks[0, 1, 2] = masks[0, 4, 5] = 1
    filled = fill_boxes(masks)
    expected = torch.zeros(6, 6, dtype=torch.uint8)
    expected[1:4, 2:5] = 1
    assert torch.equal(filled[0], expected)
    assert not filled[1].any()
