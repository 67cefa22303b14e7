"""What config fields say in plain words, for tables and legends: `limit_train=5000` is "5,000 training images".

And numbers of things in words: "1 epoch", "3 hold, 1 fails".
"""

import re
from collections.abc import Callable, Mapping

Word = str | Mapping[object, str] | Callable[[object], str]
"""A format for the value, a word for each value, or a function of it; an empty word is left out."""

VERBS = {"holds": "hold", "fails": "fail"}  # of one thing, and of several
DATA_SETS: Mapping[object, str] = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "mnist": "MNIST",
    "notmnist": "notMNIST",
    "fer2013": "FER-2013",
}
BATCH_NORM = {"keep": "keeps its statistics", "layer": "by layer", "follow": "follows the batch"}
# Data sets of weights, by what the names of their files end in.
PRETRAINED = {
    "tiny_imagenet": "Tiny-ImageNet weights",
    "imagenet": "ImageNet weights",
    "imagenet_from_int8": "ImageNet weights from an int8 model",
}
TRAINED_ON = "-on-"  # in the name of a run's weights, before the data set of a run that began with random weights


def weights(value: object) -> str:
    """What weights were trained on; of other files and runs the name, without the digest of its content."""
    if value == "none":
        return "random weights"
    name = re.sub(r"(.safetensors|.weights.h5|.h5)?@sha256:.*", "", str(value))
    if run := re.search(rf"-s\d+{TRAINED_ON}(.+)$", name):
        data = run[1].lower().removesuffix("_200")  # Tiny-ImageNet's archive unpacks to tiny-imagenet-200
        return PRETRAINED.get(data, f"{DATA_SETS.get(run[1], run[1])} weights")
    known = (end for end in sorted(PRETRAINED, key=len, reverse=True) if re.search(rf"(^|_){end}$", name))
    return next((PRETRAINED[end] for end in known), f"weights {name}")


def trained_on(*data: str) -> Callable[[object], bool]:
    """Whether weights were trained on one of these data sets, as `PRETRAINED` has them: a function of the weights."""
    wanted = [PRETRAINED[name] for name in data]
    return lambda value: weights(value) in wanted


def count(number: int, noun: str) -> str:
    """A number of things, such as `1 run` and `2,000 runs`; `noun` is of one."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss, or m:ss."""
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"


def agreeing(number: int, word: str) -> str:
    """A word as its number asks for: one claim `holds`, two `hold`; what is no verb stays."""
    return VERBS.get(word, word) if number != 1 else word


def counts(numbers: Mapping[str, int]) -> str:
    """How many of each kind there are, in this order: `3 hold, 1 fails`."""
    return ", ".join(f"{number} {agreeing(number, word)}" for word, number in numbers.items() if number)


def epochs(value: object) -> str:
    """A number of epochs; a value that is none as it is."""
    return count(value, "epoch") if isinstance(value, int) else f"epochs {value}"


WORDS: Mapping[str, Word] = {
    "dataset": DATA_SETS,
    "backbone": {
        "resnet18": "ResNet-18",
        "resnet34": "ResNet-34",
        "resnet50": "ResNet-50",
        "resnet101": "ResNet-101",
        "resnext50_32x4d": "ResNeXt-50",
        "wide_resnet50_2": "Wide ResNet-50-2",
        "mobilenet_v2": "MobileNetV2",
    },
    "weights": weights,
    "image_size": "{} pixels",
    "limit_train": "{:,} training images",
    "limit_test": "{:,} test images",
    "batch_size": "batch of {}",
    "epochs": epochs,
    "batch_norm": {regime: f"batch norm {told}" for regime, told in BATCH_NORM.items()},
    "augment_at": {"native": "augmented at the images' own size", "input": "augmented at the network's input size"},
    "initialisation": {"torch": "PyTorch's initial weights", "keras": "Keras's initial weights"},
    "head_init": {"torch": "head with PyTorch's initial weights", "keras": "head with Keras's initial weights"},
    "code": {"uncommitted": "uncommitted code"},
}


def in_words(key: str, value: object, own: Mapping[str, Word]) -> str:
    """What a field says; `own` are the words of a task, which come before those of all tasks."""
    word = {**WORDS, **own}.get(key, f"{re.sub('[_.]', ' ', key)} {{}}")
    if isinstance(word, str):
        return word.format(number(value) if isinstance(value, float) else value)
    return word(value) if callable(word) else word.get(value, str(value))


def number(value: float) -> str:
    """A setting that is a number, as a person writes it: 1e-7, 0.001, 10,000."""
    if value and abs(value) < 0.001:
        mantissa, exponent = f"{value:e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:,.10g}"
