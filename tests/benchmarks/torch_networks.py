"""The tasks' networks in plain PyTorch, as a student would write them: images float (b, c, h, w) to scores."""

import sys
from pathlib import Path

from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "common" / "fixtures"))
from make_resnet_outputs import NETWORKS as RESNETS


def permuted_cnn(padding: str) -> nn.Module:
    """Four convolutions: "valid", or "same" and the mean over the image."""
    layers = [nn.Conv2d(1, 64, 3, padding=padding), nn.BatchNorm2d(64), nn.ReLU()]
    for before, after in ((64, 128), (128, 256), (256, 512)):
        layers += [nn.Conv2d(before, after, 3, padding=padding), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


def base_cnn() -> nn.Module:
    """The classifier of rotation_contrastive."""
    layers = []
    for before, after in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(2048, 256), nn.ReLU(), nn.Dropout(0.25), nn.Linear(256, 10))


def autoencoder() -> nn.Module:
    """Images (b, 784) to images."""
    encoder = [nn.Linear(784, 1000), nn.ReLU(), nn.Linear(1000, 300)]
    return nn.Sequential(*encoder, nn.Linear(300, 1000), nn.ReLU(), nn.Linear(1000, 784), nn.Sigmoid())


class Resized(nn.Module):
    """A network that sees images at another size, normalised."""

    def __init__(self, network: nn.Module, size: int):
        super().__init__()
        self.network, self.size = network, size

    def forward(self, x):
        """Scores (b, 10) of images of 0 to 255."""
        x = nn.functional.interpolate(x, (self.size, self.size), mode="bilinear", align_corners=False)
        return self.network(x / 127.5 - 1)


class Scores(nn.Module):
    """The pooled features of a ResNet, through dropout and a linear layer."""

    def __init__(self, resnet: nn.Module):
        super().__init__()
        self.resnet = resnet
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(resnet.fc.in_features, 10))
        del resnet.fc

    def forward(self, x):
        """Scores (b, 10)."""
        return self.head(self.resnet(x)["features"])


def resnet18(size: int) -> nn.Module:
    """Of cifar_phased."""
    return Resized(Scores(RESNETS["resnet18"][1]()), size)


def wide_resnet50_2(size: int) -> nn.Module:
    """Of cifar_phased."""
    return Resized(Scores(RESNETS["wide_resnet50_2"][1]()), size)


class Residual(nn.Module):
    """An inverted residual block (Sandler et al. 2018, table 1)."""

    def __init__(self, before: int, after: int, stride: int, factor: int):
        super().__init__()
        wide = before * factor
        layers = [] if factor == 1 else [*conv(before, wide, 1), nn.ReLU6()]
        layers += [*conv(wide, wide, 3, stride, wide), nn.ReLU6(), *conv(wide, after, 1)]
        self.layers = nn.Sequential(*layers)
        self.adds = stride == 1 and before == after

    def forward(self, x):
        """Activations (b, after, h / stride, w / stride)."""
        return x + self.layers(x) if self.adds else self.layers(x)


def conv(before: int, after: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution without bias, and batch normalisation."""
    return [nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(after)]


def mobilenet_v2(size: int) -> nn.Module:
    """Of cifar_phased (Sandler et al. 2018, table 2)."""
    layers, before = [*conv(3, 32, 3, 2), nn.ReLU6()], 32
    rows = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for factor, after, count, stride in rows:
        for number in range(count):
            layers.append(Residual(before, after, stride if number == 0 else 1, factor))
            before = after
    layers += [*conv(before, 1280, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return Resized(nn.Sequential(*layers, nn.Dropout(0.5), nn.Linear(1280, 10)), size)
