"""Some of the mutations of `make test-mutations`: files that were damaged end no tool, and hide nothing else."""

import json
import random

import mutations


def test_no_damaged_file_ends_a_tool():
    assert mutations.run(300, 7, ("permuted_cnn", "autoencoder_sweep"), lambda line: None) == []


def test_mutations_change_what_they_are_given_and_can_be_repeated():
    content = json.dumps({"a": [1, {"b": "text"}], "c": 0.5}, indent=1).encode()
    made = [mutations.damaged(content, ".json", random.Random(seed)) for seed in range(200)]
    assert made == [mutations.damaged(content, ".json", random.Random(seed)) for seed in range(200)]
    assert len(set(made)) > 60
    assert any(text.count(b'"a"') == 2 for text in made)  # a key that is there twice
    assert any(b"NaN" in text for text in made)
