"""Networks that a processor can train in minutes.

`colour` and `gray`: ResNet-18 with the small-image stem at a quarter of its width, 128-d, of the CIFAR-10 comparison.
`photo`: resnet10t@0.5 to the bit, under the name by which the stored measurement of clothing knows it.
"""

import timm
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, given: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(given, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.skip = nn.Sequential()
        if stride != 1 or given != width:
            self.skip = nn.Sequential(nn.Conv2d(given, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.skip(x))


class Narrow18(nn.Module):
    def __init__(self, channels: int = 3, widths: tuple[int, ...] = (16, 32, 64, 128)) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        given, blocks = widths[0], []
        for stage, width in enumerate(widths):
            blocks += [Block(given, width, 2 if stage else 1), Block(width, width, 1)]
            given = width
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(F.relu(self.bn1(self.conv1(x)))).mean((2, 3))


def colour() -> Narrow18:
    return Narrow18(3)


def gray() -> Narrow18:
    return Narrow18(1)


def photo() -> nn.Module:
    return timm.create_model(
        "resnet10t", num_classes=0, channels=(32, 64, 128, 256), stem_width=16, zero_init_last=False
    )


def tokens() -> nn.Module:
    """A vision transformer of 6 blocks, 128 wide, for 32 px in patches of 4: [b 3 32 32] -> [b 128]."""
    return timm.models.VisionTransformer(
        img_size=32, patch_size=4, embed_dim=128, depth=6, num_heads=4, num_classes=0, dynamic_img_size=True
    )
