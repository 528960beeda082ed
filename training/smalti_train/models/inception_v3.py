"""Inception-v3 (Szegedy et al. 2016) up to its last average pool, in the two forms of published weights.

One is torchvision's. The other, for the Fréchet inception distance (Heusel et al. 2017), is TensorFlow's network of
December 2015, which pools differently. Parameters carry torchvision's names.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 299
"""Pixels per side that the network was trained on; 75 is the least."""
DIM = 2048

Pool = Callable[[Tensor], Tensor]


def averaged(x: Tensor) -> Tensor:
    """Mean of 3x3 neighbours; those outside count as zeros."""
    return F.avg_pool2d(x, 3, stride=1, padding=1)


def averaged_inside(x: Tensor) -> Tensor:
    """Mean of 3x3 neighbours without those outside, as in TensorFlow."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def greatest(x: Tensor) -> Tensor:
    """Maximum of 3x3 neighbours."""
    return F.max_pool2d(x, 3, stride=1, padding=1)


def halved(x: Tensor) -> Tensor:
    """Maximum of 3x3 neighbours, at every other position."""
    return F.max_pool2d(x, 3, stride=2)


class Conv(nn.Module):
    """Convolution, batch norm, ReLU; the size stays unless there is a stride or ``valid`` drops the padding."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1, valid: bool = False
    ) -> None:
        super().__init__()
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (0, 0) if valid or stride > 1 else (height // 2, width // 2)
        self.conv = nn.Conv2d(inputs, outputs, (height, width), stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, outputs, H', W']."""
        return F.relu(self.bn(self.conv(x)))


class BlockA(nn.Module):
    """1x1, 5x5, twice 3x3, pool; [B, inputs, 35, 35] to [B, 224 + pooled, 35, 35] (figure 5 of the paper)."""

    def __init__(self, inputs: int, pooled: int, pool: Pool) -> None:
        super().__init__()
        self.branch1x1 = Conv(inputs, 64, 1)
        self.branch5x5_1 = Conv(inputs, 48, 1)
        self.branch5x5_2 = Conv(48, 64, 5)
        self.branch3x3dbl_1 = Conv(inputs, 64, 1)
        self.branch3x3dbl_2 = Conv(64, 96, 3)
        self.branch3x3dbl_3 = Conv(96, 96, 3)
        self.branch_pool = Conv(inputs, pooled, 1)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        wide = self.branch5x5_2(self.branch5x5_1(x))
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat((self.branch1x1(x), wide, double, self.branch_pool(self.pool(x))), dim=1)


class BlockB(nn.Module):
    """Halves the size; [B, 288, 35, 35] to [B, 768, 17, 17] (figure 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3 = Conv(288, 384, 3, stride=2)
        self.branch3x3dbl_1 = Conv(288, 64, 1)
        self.branch3x3dbl_2 = Conv(64, 96, 3)
        self.branch3x3dbl_3 = Conv(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat((self.branch3x3(x), double, halved(x)), dim=1)


class BlockC(nn.Module):
    """7x7 as 1x7 and 7x1, once and twice, ``width`` channels inside; [B, 768, 17, 17] to the same (figure 6)."""

    def __init__(self, width: int, pool: Pool) -> None:
        super().__init__()
        self.branch1x1 = Conv(768, 192, 1)
        self.branch7x7_1 = Conv(768, width, 1)
        self.branch7x7_2 = Conv(width, width, (1, 7))
        self.branch7x7_3 = Conv(width, 192, (7, 1))
        self.branch7x7dbl_1 = Conv(768, width, 1)
        self.branch7x7dbl_2 = Conv(width, width, (7, 1))
        self.branch7x7dbl_3 = Conv(width, width, (1, 7))
        self.branch7x7dbl_4 = Conv(width, width, (7, 1))
        self.branch7x7dbl_5 = Conv(width, 192, (1, 7))
        self.branch_pool = Conv(768, 192, 1)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat((self.branch1x1(x), once, twice, self.branch_pool(self.pool(x))), dim=1)


class BlockD(nn.Module):
    """Halves the size; [B, 768, 17, 17] to [B, 1280, 8, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1 = Conv(768, 192, 1)
        self.branch3x3_2 = Conv(192, 320, 3, stride=2)
        self.branch7x7x3_1 = Conv(768, 192, 1)
        self.branch7x7x3_2 = Conv(192, 192, (1, 7))
        self.branch7x7x3_3 = Conv(192, 192, (7, 1))
        self.branch7x7x3_4 = Conv(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        narrow = self.branch3x3_2(self.branch3x3_1(x))
        wide = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return torch.cat((narrow, self.branch7x7x3_4(wide), halved(x)), dim=1)


class BlockE(nn.Module):
    """3x3 as 1x3 beside 3x1; [B, inputs, 8, 8] to [B, 2048, 8, 8] (figure 7)."""

    def __init__(self, inputs: int, pool: Pool) -> None:
        super().__init__()
        self.branch1x1 = Conv(inputs, 320, 1)
        self.branch3x3_1 = Conv(inputs, 384, 1)
        self.branch3x3_2a = Conv(384, 384, (1, 3))
        self.branch3x3_2b = Conv(384, 384, (3, 1))
        self.branch3x3dbl_1 = Conv(inputs, 448, 1)
        self.branch3x3dbl_2 = Conv(448, 384, 3)
        self.branch3x3dbl_3a = Conv(384, 384, (1, 3))
        self.branch3x3dbl_3b = Conv(384, 384, (3, 1))
        self.branch_pool = Conv(inputs, 192, 1)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        once = self.branch3x3_1(x)
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        split = (self.branch3x3_2a(once), self.branch3x3_2b(once))
        split += (self.branch3x3dbl_3a(twice), self.branch3x3dbl_3b(twice))
        return torch.cat((self.branch1x1(x), *split, self.branch_pool(self.pool(x))), dim=1)


class InceptionV3(nn.Module):
    """The network without its classifiers; frozen, and always in eval mode.

    ``fid`` selects the pools of the network for the Fréchet inception distance: averages that leave out what is outside
    the image, and in the last block a maximum where the paper has an average.
    """

    def __init__(self, fid: bool) -> None:
        super().__init__()
        pool = averaged_inside if fid else averaged
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3, valid=True)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3)
        self.Conv2d_3b_1x1 = Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3, valid=True)
        self.Mixed_5b = BlockA(192, 32, pool)
        self.Mixed_5c = BlockA(256, 64, pool)
        self.Mixed_5d = BlockA(288, 64, pool)
        self.Mixed_6a = BlockB()
        self.Mixed_6b = BlockC(128, pool)
        self.Mixed_6c = BlockC(160, pool)
        self.Mixed_6d = BlockC(160, pool)
        self.Mixed_6e = BlockC(192, pool)
        self.Mixed_7a = BlockD()
        self.Mixed_7b = BlockE(1280, pool)
        self.Mixed_7c = BlockE(2048, greatest if fid else averaged)
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> InceptionV3:
        """Stay in eval mode."""
        del mode
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Pooled features (float [B, 2048]) of ``images`` float [B, 3, H, W] in 0 .. 255."""
        x = images / 127.5 - 1  # both forms were trained on -1 .. 1; torchvision rescales its inputs to it
        x = halved(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))))
        x = halved(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))
        x = self.Mixed_6e(self.Mixed_6d(x))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return x.mean(dim=(2, 3))
