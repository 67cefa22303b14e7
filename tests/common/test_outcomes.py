import gzip
import json

import numpy as np

from common.metrics import evaluate
from common.outcomes import packed, unpacked


def test_outcomes_come_back_as_they_were():
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 300, 1001), rng.integers(0, 300, 1001)
    right = {"head/best": rng.random(1001) < 0.5, "head/last": np.ones(1001, bool)}
    again = unpacked(json.loads(json.dumps(packed(labels, predicted, right))))
    np.testing.assert_array_equal(again[0], labels)
    np.testing.assert_array_equal(again[1], predicted)
    assert again[2].keys() == right.keys()
    for state in right:
        np.testing.assert_array_equal(again[2][state], right[state])


def test_a_record_of_100_classes_10_000_images_and_135_epochs_is_small():
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(10_000) % 100)
    probabilities = rng.dirichlet(np.full(100, 0.1), 10_000)
    chosen = rng.random(10_000) < 0.5
    probabilities[chosen] = np.eye(100)[labels[chosen]]
    right = {str(state): rng.random(10_000) < 0.5 for state in range(5)}
    metrics = {split: evaluate(labels, probabilities, [f"class {i}" for i in range(100)]) for split in ("a", "b")}
    for each in metrics.values():
        del each["confusion"]
    history = [
        {"phase": "full", "epoch": epoch} | dict(zip("abcdefg", rng.random(7), strict=True)) for epoch in range(135)
    ]
    record = {"metrics": metrics, "history": history, "counts": [[100] * 100] * 3}
    record["outcomes"] = packed(labels, probabilities.argmax(axis=1), right)
    assert 20_000 < len(gzip.compress(json.dumps(record).encode())) < 40_000
