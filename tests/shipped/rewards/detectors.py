"""Tiny detectors of the real classes, saved as published ones are."""

import torch
from torch import nn
from transformers import (
    DetrConfig,
    DetrForObjectDetection,
    OwlViTConfig,
    OwlViTForObjectDetection,
    OwlViTProcessor,
    ResNetConfig,
)
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil
from transformers.models.owlvit.image_processing_pil_owlvit import OwlViTImageProcessorPil

from .checkpoints import clip_tokenizer

CLASSES = ["dog", "cat", "Potted plant"]


def save_detr(folder):
    """Twelve boxes a picture, of three classes; returns the model."""
    backbone = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 8, 8],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage4"],
    )
    config = DetrConfig(
        backbone_config=backbone,
        num_queries=12,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        id2label=dict(enumerate(CLASSES)),
        label2id={name: i for i, name in enumerate(CLASSES)},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = DetrForObjectDetection(config).eval()
        # Boxes of all classes and sizes, where a fresh model gives twelve equal ones.
        nn.init.normal_(model.model.query_position_embeddings.weight, std=3.0)
        for part in (model.model.decoder, model.class_labels_classifier, model.bbox_predictor):
            for parameter in part.parameters():
                if parameter.ndim > 1:
                    nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    DetrImageProcessorPil(size={"shortest_edge": 32, "longest_edge": 64}).save_pretrained(folder)
    return model


def save_owlvit(folder):
    """Sixteen boxes a picture, of whatever is asked for; returns the model."""
    tokenizer = clip_tokenizer()
    tower = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    text = {
        **tower,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 32,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.eos_token_id,
    }
    vision = {**tower, "image_size": 32, "patch_size": 8}
    config = OwlViTConfig(text_config=text, vision_config=vision, projection_dim=16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = OwlViTForObjectDetection(config).eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.4)
    model.save_pretrained(folder)
    tokenizer.model_max_length = 32
    processor = OwlViTImageProcessorPil(size={"height": 32, "width": 32})
    OwlViTProcessor(processor, tokenizer).save_pretrained(folder)
    return model
