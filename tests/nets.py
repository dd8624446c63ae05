"""Small networks that the tests name by their dotted path, as a user does: tests.nets:tiny."""

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn


class Mean(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


def tiny(channels: int = 3) -> nn.Sequential:
    """[b 3 h w] -> [b 8]"""
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), Mean()
    )


def tokens(channels: int = 3) -> VisionTransformer:
    """[b 3 32 32] -> [b 16], with 16 tokens."""
    return VisionTransformer(
        img_size=32,
        patch_size=8,
        in_chans=channels,
        embed_dim=16,
        depth=2,
        num_heads=2,
        num_classes=0,
        dynamic_img_size=True,
    )
