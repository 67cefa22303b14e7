"""Two epochs of torchvision's ImageFolder with PyTorch's DataLoader; for image_folder.py, alone in a Python with those.

python tests/benchmarks/torch_folder.py FOLDER SIDE BATCH      prints the seconds of each as JSON
"""

import json
import os
import sys
import time

from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder


def epochs(folder: str, side: int, batch: int) -> list[float]:
    """Seconds of the first epoch, with the listing of the folder, and of the second one."""
    began = time.perf_counter()
    steps = [transforms.Resize(side), transforms.CenterCrop(side), transforms.ToTensor()]
    data = ImageFolder(folder, transforms.Compose(steps))
    loader = DataLoader(data, batch, shuffle=True, num_workers=os.cpu_count() or 1, persistent_workers=True)
    seconds = []
    for _ in range(2):
        assert sum(len(labels) for _, labels in loader) == len(data)
        seconds.append(time.perf_counter() - began)
        began = time.perf_counter()
    return seconds


if __name__ == "__main__":
    print(json.dumps(epochs(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
