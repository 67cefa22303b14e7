import gzip
import json

import numpy as np

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


def test_100_classes_of_10_000_images_take_less_than_30_kilobytes():
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(10_000) % 100)
    predicted = np.where(rng.random(10_000) < 0.5, labels, rng.integers(0, 100, 10_000))
    right = {str(state): rng.random(10_000) < 0.5 for state in range(5)}
    assert len(gzip.compress(json.dumps(packed(labels, predicted, right)).encode())) < 30_000
