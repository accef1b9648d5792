"""Attention semantics and row order of the multi-view U-Net."""

import copy

import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from rewardft_plugins.drpose.model.attention import (
    BODY_VIEWS,
    MultiviewTransformerBlock,
    fuse_face,
    join_domains,
    join_image_rows,
    split_domains,
    split_image_rows,
    square_side,
)
from rewardft_plugins.drpose.model.unet import (
    MINI_UNET,
    MiniConditioner,
    MultiviewDenoiser,
    build_unet,
    from_published_order,
    to_published_order,
)

DIM, SIDE, SAMPLES = 16, 6, 2


def random_block(face=False, zero_mv=False):
    torch.manual_seed(0)
    basic = BasicTransformerBlock(DIM, 2, DIM // 2, cross_attention_dim=DIM)
    block = MultiviewTransformerBlock(basic, face=face).eval()
    if not zero_mv:
        torch.nn.init.normal_(block.attn_mv.to_out[0].weight, std=0.3)
    return block


def tokens(views=BODY_VIEWS):
    return torch.randn(
        2 * SAMPLES * views, SIDE * SIDE, DIM, generator=torch.Generator().manual_seed(1)
    )


def as_maps(x, views=BODY_VIEWS):
    return x.reshape(2, SAMPLES, views, SIDE, SIDE, DIM)


def changed(before, after):
    return (before - after).abs().amax(-1) > 1e-6


def test_multiview_attention_stays_in_its_image_row_sample_and_domain():
    block, x = random_block(), tokens()
    poked = as_maps(x.clone())
    poked[1, 0, 4, 2, 3] += 1.0  # colour, sample 0, left view, image row 2
    before = as_maps(block.multiview_attention(x))
    after = as_maps(block.multiview_attention(poked.reshape(x.shape)))
    expected = torch.zeros(2, SAMPLES, BODY_VIEWS, SIDE, SIDE, dtype=torch.bool)
    expected[1, 0, :, 2, :] = True
    assert torch.equal(changed(before, after), expected)


def test_joint_attention_joins_the_two_domains_of_one_view_only():
    block, x = random_block(), tokens()
    poked = as_maps(x.clone())
    poked[0, 1, 2, 0, 0] += 1.0  # normal, sample 1, right view
    difference = changed(
        as_maps(block.joint_attention(x)), as_maps(block.joint_attention(poked.reshape(x.shape)))
    )
    expected = torch.zeros_like(difference)
    expected[:, 1, 2] = True
    assert torch.equal(difference, expected)


def test_zero_initialised_multiview_attention_changes_nothing():
    block, x = random_block(zero_mv=True), tokens()
    context = torch.randn(len(x), 5, DIM)
    y = x + block.joint_attention(block.norm1(x))
    y = y + block.attn2(block.norm2(y), encoder_hidden_states=context)
    y = y + block.ff(block.norm3(y))
    assert torch.equal(block(x, encoder_hidden_states=context), y)


def test_the_order_is_joint_multiview_cross_feed_forward():
    block, x = random_block(), tokens()
    context = torch.randn(len(x), 5, DIM)
    y = x + block.joint_attention(block.norm1(x))
    y = y + block.multiview_attention(block.norm_mv(y))
    y = y + block.attn2(block.norm2(y), encoder_hidden_states=context)
    torch.testing.assert_close(
        block(x, encoder_hidden_states=context), y + block.ff(block.norm3(y)), rtol=0, atol=0
    )


def test_regrouping_is_invertible():
    x = tokens()
    assert torch.equal(split_domains(join_domains(x)), x)
    assert torch.equal(split_image_rows(join_image_rows(x, BODY_VIEWS), BODY_VIEWS, SIDE), x)
    normal, colour = x.chunk(2)
    assert torch.equal(join_domains(x)[3], torch.cat([normal[3], colour[3]]))


def test_bfloat16_attention_on_a_cpu_is_close_to_float32():
    block, x = random_block(), tokens()
    context = torch.randn(len(x), 5, DIM)
    with torch.autocast("cpu", torch.bfloat16):
        low = block(x, encoder_hidden_states=context)
    assert (low - block(x, encoder_hidden_states=context)).abs().max() < 0.1


def test_face_fusion_blends_half_the_face_into_the_heads_third_without_gradient():
    x = torch.zeros(7, SIDE * SIDE, DIM)
    x[6] = 2.0  # a constant face
    x.requires_grad_()
    y = fuse_face(x)
    maps = y.detach().reshape(7, SIDE, SIDE, DIM)
    expected = torch.zeros(7, SIDE, SIDE)
    expected[6] = 2.0
    expected[0, :2, 2:4] = 1.0  # 0.5 * front (0) + 0.5 * face (2)
    assert torch.equal(maps[..., 0], expected)
    y[0].sum().backward()
    assert x.grad[6].abs().sum() == 0
    assert x.grad[0].reshape(SIDE, SIDE, DIM)[0, 2, 0] == 0.5
    assert x.grad[0].reshape(SIDE, SIDE, DIM)[0, 0, 0] == 1.0


def test_the_face_row_takes_no_part_in_multiview_attention():
    block, x = random_block(face=True), tokens(7)
    before = as_maps(block.multiview_attention(x), 7)
    poked = as_maps(x.clone(), 7)
    poked[:, :, 6] += 1.0
    after = as_maps(block.multiview_attention(poked.reshape(x.shape)), 7)
    assert torch.equal(before, after)
    assert before[:, :, 6].abs().max() == 0


def test_maps_must_be_square():
    with pytest.raises(ValueError, match="square feature maps, got 12 tokens"):
        square_side(12)


def test_published_row_order_is_domain_sample_view():
    x = torch.arange(2 * 12).reshape(2, 12)  # sample * 12 + domain * 6 + view
    rows = to_published_order(x)
    assert rows[:6].tolist() == [0, 1, 2, 3, 4, 5]  # normals of sample 0
    assert rows[6:12].tolist() == [12, 13, 14, 15, 16, 17]  # normals of sample 1
    assert rows[12:18].tolist() == [6, 7, 8, 9, 10, 11]  # colours of sample 0
    assert torch.equal(from_published_order(rows, 2), x)


def denoiser():
    torch.manual_seed(0)
    model = MultiviewDenoiser(build_unet(MINI_UNET), MiniConditioner(12, 8)).eval()
    for module in model.modules():
        if isinstance(module, MultiviewTransformerBlock):
            torch.nn.init.normal_(module.attn_mv.to_out[0].weight, std=0.1)
    return model


def test_samples_do_not_see_each_other_and_permute_with_the_batch():
    model = denoiser()
    x, t = torch.randn(3, 12, 8, 16, 16), torch.tensor([10, 500, 900])
    cond = {"latents": torch.randn(3, 1, 8, 16, 16)}
    with torch.no_grad():
        together = model(x, t, cond)
        order = [2, 0, 1]
        permuted = model(x[order], t[order], {"latents": cond["latents"][order]})
        alone = model(x[1:2], t[1:2], {"latents": cond["latents"][1:2]})
    torch.testing.assert_close(permuted, together[order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(alone, together[1:2], rtol=1e-4, atol=1e-5)


def test_views_of_a_sample_see_each_other():
    model = denoiser()
    x, t = torch.randn(1, 12, 8, 16, 16), torch.tensor([500])
    cond = {"latents": torch.randn(1, 1, 8, 16, 16)}
    poked = x.clone()
    poked[0, 3] += 1.0  # the back view's normal map
    with torch.no_grad():
        difference = (model(poked, t, cond) - model(x, t, cond)).abs().amax((0, 2, 3, 4))
    assert (difference > 1e-4).all()


def test_every_row_knows_its_domain_and_view():
    model = denoiser()
    x, t = torch.randn(1, 1, 8, 16, 16).expand(1, 12, -1, -1, -1), torch.tensor([500])
    with torch.no_grad():
        output = model(x, t, {"latents": torch.randn(1, 1, 8, 16, 16)})[0]
    distances = torch.cdist(output.flatten(1), output.flatten(1)) + torch.eye(12)
    assert distances.min() > 1e-3


def test_lora_goes_into_every_attention():
    from peft import LoraConfig, inject_adapter_in_model

    model = denoiser()
    x, t = torch.randn(1, 12, 8, 16, 16), torch.tensor([500])
    cond = {"latents": torch.randn(1, 1, 8, 16, 16)}
    with torch.no_grad():
        before = model(x, t, cond)
    blocks = sum(isinstance(m, MultiviewTransformerBlock) for m in model.modules())
    model = inject_adapter_in_model(
        LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"]), copy.deepcopy(model)
    )
    pairs = [name for name, _ in model.named_parameters() if "lora_A" in name]
    assert len(pairs) == blocks * 3 * 4  # three attentions, four projections each
    with torch.no_grad():
        torch.testing.assert_close(model(x, t, cond), before, rtol=0, atol=0)
