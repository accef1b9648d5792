"""Workflows that are conditioned on a picture equal their pipelines, called as users call them."""

import pytest
import torch
import transformers as T
from diffusers import AutoencoderKLQwenImage, QwenImageEditAutoBlocks
from rewardft_plugins.modular.blocks import join
from rewardft_plugins.modular.encoding import to_picture
from rewardft_plugins.modular.from_weights import ModularFromWeights
from rewardft_plugins.modular.loading import Source, load_parts, open_pipeline, select_blocks
from rewardft_plugins.modular.model import Modular
from rewardft_plugins.modular.settings import Settings
from rewardft_plugins.text2image.tiny import families, texts

from rewardft import Batch
from rewardft.samplers.flow import FlowEuler

STEPS = 3
PICTURES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
EDITS = Batch(
    ("0", "1"), (0, 0), {"prompt": ["make it red", "add a dog on a hill"], "image": PICTURES}
)


def edited(model, row, steps=STEPS):
    """The chain from the pipeline's own noise for seed 0, under the condition of a row."""
    cond = model.encode(EDITS.select(slice(row, row + 1)))
    sampler = FlowEuler(steps)
    sampler.setup(model)
    model.sample_shape(cond)
    x = join(model.chain.prepare({**cond[0].values, "num_inference_steps": steps}).step, model.pipe)
    for k in range(steps):
        output = model.denoise(x, torch.full((1,), sampler.timesteps[k]), cond)
        x = sampler.transition(k, x, output, None).next
    return model.decode(x)


def called(pipe, row, steps=STEPS):
    noise = torch.Generator().manual_seed(0)
    pipe.set_progress_bar_config(disable=True)
    return pipe(
        prompt=EDITS["prompt"][row], image=to_picture(PICTURES[row]), height=32, width=32, num_inference_steps=steps,
        generator=noise, output_type="pt", output="images",
    )  # fmt: skip


def test_flux2_klein_with_a_picture(folders):
    weights, workflow = str(folders["flux2_klein"]), "image_conditioned"
    model = ModularFromWeights(weights=weights, workflow=workflow, height=32, width=32)
    source = Source(weights)
    pipe = open_pipeline(source)
    load_parts(pipe, select_blocks(pipe, workflow, {}), source)
    results = [edited(model, row) for row in range(2)]
    for row, ours in enumerate(results):
        assert torch.equal(ours, called(pipe, row))
    assert float((results[0] - results[1]).abs().max()) > 1e-3


class PictureProcessor(T.Qwen2VLProcessor):
    """Without the part for videos, which needs torchvision."""

    def check_argument_for_proper_class(self, name, argument):
        known = name == "video_processor"
        return type(argument) if known else super().check_argument_for_proper_class(name, argument)


def qwen_edit():
    torch.manual_seed(0)
    parts = families.qwen_image()[2]
    parts["vae"] = AutoencoderKLQwenImage(  # the family encodes pictures of a megapixel
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.1] * 4,
        latents_std=[1.5] * 4,
    )
    images = T.Qwen2VLImageProcessorPil(
        patch_size=14, merge_size=2, min_pixels=784, max_pixels=3136
    )
    processor = PictureProcessor(images, parts.pop("tokenizer"), None, chat_template=texts.CHAT)
    for part in parts.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    pipe = QwenImageEditAutoBlocks().init_pipeline()
    pipe.update_components(**parts, processor=processor)
    return pipe


@pytest.mark.slow  # the family scales every picture to a megapixel
def test_qwen_image_edit():
    model = Modular(qwen_edit(), Settings(workflow="image_conditioned", height=32, width=32))
    assert torch.equal(edited(model, 0, steps=1), called(qwen_edit(), 0, steps=1))


def test_pictures_are_denoised_one_at_a_time(folders):
    model = ModularFromWeights(
        weights=str(folders["flux2_klein"]), workflow="image_conditioned", height=32, width=32
    )
    cond = model.encode(EDITS)
    x = torch.randn(2, *model.sample_shape(cond), generator=torch.Generator().manual_seed(0))
    t = torch.full((2,), 500.0)
    both = model.denoise(x, t, cond)
    alone = [model.denoise(x[row : row + 1], t[:1], cond[row : row + 1]) for row in range(2)]
    assert torch.equal(both, torch.cat(alone))
    swapped = model.denoise(x, t, cond[::-1])
    assert not torch.allclose(both, swapped, atol=1e-4)
