"""Tiny checkpoints of every family, from the real classes of diffusers and transformers, in the layout of the hub.

Weights are random; a few hundred thousand numbers each. 16x16 pixels are 8x8 latents of 4 channels.
"""

import string

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxTransformer2DModel,
    PNDMScheduler,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    UNet2DModel,
)
from rewardft_plugins.text2image.tiny.networks import image_vae
from rewardft_plugins.text2image.tiny.texts import t5_tokenizer
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
)

PIXELS, LATENTS, CHANNELS = 16, 8, 4
WIDTH = 16  # of every text encoder
TOKENS = 12  # that CLIP reads
BETAS = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
}


def clip_tokenizer():
    """Letters alone: byte-level merges are left out, so a word is as many tokens as it has letters."""
    letters = string.ascii_lowercase + string.digits
    names = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={name: i for i, name in enumerate(names)}, merges=[], model_max_length=TOKENS
    )


def clip_encoder(kind, seed):
    torch.manual_seed(seed)
    vocabulary = len(clip_tokenizer())
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        projection_dim=WIDTH,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )
    return kind(config).eval()


def t5_encoder(seed, width=2 * WIDTH):
    torch.manual_seed(seed)
    config = T5Config(vocab_size=40, d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    return T5EncoderModel(config).eval()


def autoencoder(seed, **extra):
    torch.manual_seed(seed)
    return image_vae(CHANNELS, sample_size=PIXELS, **extra).eval()


def unet(seed, **extra):
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=LATENTS,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        **extra,
    ).eval()


def save(folder, **parts):
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    return folder


def stable_diffusion(folder, prediction="epsilon"):
    """1.x has PNDM's configuration, without a prediction type; 2.x names its type and DDIM."""
    kind = PNDMScheduler if prediction == "epsilon" else DDIMScheduler
    options = {"skip_prk_steps": True} if prediction == "epsilon" else {"clip_sample": False}
    scheduler = kind(
        **BETAS, **options, set_alpha_to_one=False, steps_offset=1, prediction_type=prediction
    )
    return save(
        folder,
        tokenizer=clip_tokenizer(),
        text_encoder=clip_encoder(CLIPTextModel, 0),
        scheduler=scheduler,
        unet=unet(1, cross_attention_dim=WIDTH),
        vae=autoencoder(2, scaling_factor=0.18215),
    )


def sdxl(folder):
    network = unet(
        1,
        cross_attention_dim=2 * WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + WIDTH,
    )
    return save(
        folder,
        tokenizer=clip_tokenizer(),
        text_encoder=clip_encoder(CLIPTextModel, 0),
        tokenizer_2=clip_tokenizer(),
        text_encoder_2=clip_encoder(CLIPTextModelWithProjection, 3),
        unet=network,
        vae=autoencoder(2, scaling_factor=0.13025),
        scheduler=EulerDiscreteScheduler(**BETAS, steps_offset=1, timestep_spacing="leading"),
    )


def sd3(folder, **schedule):
    torch.manual_seed(1)
    transformer = SD3Transformer2DModel(
        sample_size=LATENTS,
        patch_size=2,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=48,
        caption_projection_dim=16,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=16,
    ).eval()
    with torch.no_grad():  # as it is initialised, what attention says hardly reaches the output
        for block in transformer.transformer_blocks:
            block.norm1.linear.bias.add_(1.0)
        transformer.proj_out.weight.mul_(3.0)
    return save(
        folder,
        tokenizer=clip_tokenizer(),
        text_encoder=clip_encoder(CLIPTextModelWithProjection, 0),
        tokenizer_2=clip_tokenizer(),
        text_encoder_2=clip_encoder(CLIPTextModelWithProjection, 3),
        tokenizer_3=t5_tokenizer(),
        text_encoder_3=t5_encoder(4, 48),
        transformer=transformer,
        vae=autoencoder(2, scaling_factor=1.5305, shift_factor=0.0609),
        scheduler=FlowMatchEulerDiscreteScheduler(**({"shift": 3.0} | schedule)),
    )


def flux(folder, guidance_embeds=True):
    torch.manual_seed(1)
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * CHANNELS,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=2 * WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=guidance_embeds,
    ).eval()
    return save(
        folder,
        tokenizer=clip_tokenizer(),
        text_encoder=clip_encoder(CLIPTextModel, 0),
        tokenizer_2=t5_tokenizer(),
        text_encoder_2=t5_encoder(4),
        transformer=transformer,
        vae=autoencoder(2, scaling_factor=0.3611, shift_factor=0.1159),
        scheduler=FlowMatchEulerDiscreteScheduler(
            shift=3.0, use_dynamic_shifting=True, max_shift=1.15
        ),
    )


CLASSES = 4
PIXEL_UNET = {
    "sample_size": 8,
    "block_out_channels": [16, 32],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": 8,
}


def class_conditional(folder):
    torch.manual_seed(1)
    return save(
        folder,
        unet=UNet2DModel(**PIXEL_UNET, num_class_embeds=CLASSES + 1).eval(),
        scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=False),
    )


FAMILIES = {"stable_diffusion": stable_diffusion, "sdxl": sdxl, "sd3": sd3, "flux": flux}
