"""The ResNets for small images (He et al. 2016, section 4.2), whose shortcuts have no weights."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ResNet(nn.Module):
    """A 3x3 stem, stages of blocks of two 3x3 convolutions, pooling and a classifier.

    Args:
        channels_in: of the images.
        stem_strides: of its 3x3 convolutions: one at 32 pixels, more for larger images.
        stages: (channels, stride of its first block) of each stage.
        blocks: in every stage; with one stem convolution and three stages the network has
            6 * blocks + 2 layers.
    """

    def __init__(
        self,
        channels_in: int,
        classes: int,
        stem_strides: tuple[int, ...],
        stages: tuple[tuple[int, int], ...],
        blocks: int,
    ) -> None:
        super().__init__()
        channels = stages[0][0]
        stem: list[nn.Module] = []
        for stride in stem_strides:
            stem += [*_convolution(channels_in, channels, stride), nn.ReLU(inplace=True)]
            channels_in = channels
        self.stem = nn.Sequential(*stem)
        self.blocks = nn.Sequential()
        for wide, stride in stages:
            for block in range(blocks):
                self.blocks.append(_Block(channels, wide, 1 if block else stride))
                channels = wide
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (batch, channels, height, width) -> logits (batch, classes)."""
        x = self.blocks(self.stem(x))
        logits: Tensor = self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


class _Block(nn.Module):
    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride, self.more = stride, channels - channels_in
        self.branch = nn.Sequential(
            *_convolution(channels_in, channels, stride),
            nn.ReLU(inplace=True),
            *_convolution(channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        # Every second pixel and zeros for the channels that are new: the paper's option A. Pooling
        # a window of one pixel takes them; a 1x1 convolution of stride 2 would have weights.
        shortcut = F.max_pool2d(x, 1, self.stride) if self.stride > 1 else x
        if self.more:
            shortcut = F.pad(shortcut, (0, 0, 0, 0, 0, self.more))
        return torch.relu(self.branch(x) + shortcut)


def _convolution(channels_in: int, channels: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False),
        nn.BatchNorm2d(channels),
    ]
