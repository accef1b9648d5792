"""Tiny checkpoints of the real classes, saved as published ones are: safetensors, configurations, a tokenizer."""

import itertools
import string

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

SIZE, WIDTH, EMBEDDING = 32, 32, 16


def clip_tokenizer():
    """A token for every letter, inside a word and at its end; the end token has the highest number, as in CLIP."""
    letters = string.ascii_lowercase + string.digits + string.punctuation
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[])


def clip_config(tokenizer):
    tower = {
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    ends = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.eos_token_id,
    }
    text = {**tower, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": 24}
    vision = {**tower, "image_size": SIZE, "patch_size": 8}
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=EMBEDDING)


def image_processor():
    return CLIPImageProcessorPil(
        size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}
    )


def save_clip(folder, seed=0):
    """Weights larger than a fresh initialisation, so that images and texts differ; returns the model."""
    tokenizer = clip_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIPModel(clip_config(tokenizer)).eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    image_processor().save_pretrained(folder)
    return model


def head_tensors(sizes=(EMBEDDING, 12, 8, 1), numbers=(0, 2, 4), seed=1):
    """A head as `improved-aesthetic-predictor` names it: dropout layers take numbers and hold nothing."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for number, (reads, gives) in zip(numbers, itertools.pairwise(sizes)):
        tensors[f"layers.{number}.weight"] = torch.randn(gives, reads, generator=generator)
        tensors[f"layers.{number}.bias"] = torch.randn(gives, generator=generator)
    return tensors


def save_head(path, **options):
    tensors = head_tensors(**options)
    save_file(tensors, path)
    return tensors
