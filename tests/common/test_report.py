"""Runs are selected by config fields, pairs are formed and headlines found, in records made by hand."""

from dataclasses import FrozenInstanceError, dataclass, replace

import pytest
from made_groups import group, runs, scored

from common.config import Config
from common.published import printed
from common.report import Headline, Pair, Report, title

RUN = {"metrics": {}}
PHASES = [{"name": "head", "rate": 0.1}, {"name": "full", "rate": 0.2}]


def labels(found):
    return [own.setting for own in found.groups]


def made(preset="p", more="", **config):
    """A group of one run, whose label names every field of its config."""
    return group(preset, " ".join([*(f"{key}={value}" for key, value in config.items()), *more.split()]), RUN, **config)


# --- selecting


@pytest.fixture
def found():
    return runs(
        made("one", block=None, network="cnn"),
        made("one", block=2, network="cnn"),
        made("one", block=2, network="mlp"),
        made("two", network="cnn", phases=PHASES, rates={"head": 0.5}),
    )


@pytest.mark.parametrize(
    ("fields", "places"),
    [
        ({}, [0, 1, 2, 3]),
        ({"preset": "one"}, [0, 1, 2]),
        ({"block": 2}, [1, 2]),
        ({"block": None}, [0, 3]),  # a record that lacks a field is older than it, and has None there
        ({"block": (1, 2)}, [1, 2]),
        ({"block": lambda value: value is not None and value > 1}, [1, 2]),
        ({"network": ("cnn", "mlp"), "preset": "two"}, [3]),
        ({"phases.1.rate": 0.2}, [3]),
        ({"rates": {"head": 0.5}}, [3]),
        ({"rates.head": 0.4}, []),
        ({"no_such_field": 1}, []),
    ],
)
def test_where_selects_by_config_fields(found, fields, places):
    assert found.where(fields).groups == tuple(found.groups[place] for place in places)


def test_where_takes_keywords_and_a_mapping_together(found):
    assert labels(found.where({"block": 2}, network="cnn")) == ["block=2 network=cnn"]
    assert labels(found.where(preset="one").where(network="cnn", block=None)) == ["block=None network=cnn"]


def test_runs_are_iterated_counted_and_read_by_the_names_of_metrics():
    both = runs(
        group("p", "a", *(scored(test={"accuracy": a, "loss": 1.0}) for a in (0.5, 0.25))),
        group("p", "b", scored(test={"accuracy": 0.75})),
    )
    assert len(both) == len(list(both)) == 3
    assert [run["config"]["seed"] for run in both] == [0, 1, 0]
    assert both.values("test accuracy (%)") == [50, 25, 75]
    with pytest.raises(KeyError):
        both.values("test loss")
    assert not runs()
    with pytest.raises(FrozenInstanceError):
        both.groups = ()


def test_by_has_runs_by_value_in_the_order_of_the_table(found):
    assert [(value, len(own)) for value, own in found.by("block").items()] == [(None, 2), (2, 2)]
    assert list(found.where(preset="one").by("phases.0.name")) == [None]
    assert runs().by("block") == {}


def test_diverged_runs_are_left_out_of_the_completed():
    lost = {"metrics": {"status": "diverged"}}
    both = runs(group("p", "a", lost, RUN), group("p", "b", lost))
    assert (len(both), len(both.completed)) == (3, 1)
    assert labels(both.completed) == ["a"]


def test_as_preset_leaves_out_trials_uncommitted_code_and_parts_of_the_data():
    every = runs(
        made(k=1),
        made(k=2, batch_size=8),
        made(k=3, more="code=uncommitted"),
        made(k=4, more="images.test=9"),
        group("p", "weights=a file name.h5 k=5", RUN, k=5, weights="a file name.h5"),
    )
    assert labels(every.as_preset("k")) == ["k=1"]
    assert labels(every.as_preset("k", "weights", "batch_size")) == [labels(every)[place] for place in (0, 1, 4)]
    assert labels(runs(group("p", "rates.head=1", RUN)).as_preset("rates")) == ["rates.head=1"]


def test_alike_are_runs_that_differ_in_some_fields_alone():
    every = [made(data="a", norm="keep"), made(data="a", norm="layer"), made(data="b", norm="keep"), made(data="b")]
    other_images = made(data="a", norm="follow", more="images.test=9")
    together = runs(*every, other_images).alike("norm")
    assert [own.groups for own in together] == [(*every[:2],), (*every[2:],), (other_images,)]


# --- comparing


def titles(pair, *groups):
    return [title(one, other) for one, other in pair.matches(runs(*groups))]


BLOCKS = Pair({"block": 1}, {"block": None})


def test_a_pair_agrees_in_all_other_fields():
    groups = [made(data=d, block=b, network=n) for d in "ab" for b in (1, None, 2) for n in ("cnn", "mlp")]
    assert titles(BLOCKS, *groups) == [
        f"data={data} network={network}: block=1 minus block=None" for data in "ab" for network in ("cnn", "mlp")
    ]
    assert titles(BLOCKS, made(data="a", block=1), made(data="b", block=None)) == []


def test_a_field_that_one_selection_alone_names_must_agree_too():
    pair = Pair({"block": 1, "data": "a"}, {"block": None})
    groups = [made(data=data, block=block) for data in "ab" for block in (1, None)]
    assert titles(pair, *groups) == ["data=a: block=1 minus block=None"]


def test_a_field_that_one_record_lacks_does_not_part_a_pair():
    old, new = group("p", "block=1", RUN, block=1), group("p", "block=None", RUN, block=None, added="today")
    assert titles(BLOCKS, old, new) == [": block=1 minus block=None"]


def test_a_field_that_one_record_lacks_parts_a_pair_if_it_is_not_as_the_preset_of_the_other_has_it():
    old, new = group("p", "block=1", RUN, block=1), group("p", "block=None added=3", RUN, block=None, added=3)
    assert titles(BLOCKS, old, new) == titles(Pair(BLOCKS.other, BLOCKS.one), old, new) == []


def test_the_seed_does_not_part_a_pair():
    other = group("p", "block=None", RUN, RUN, RUN, block=None)  # whose last seed is 2
    assert len(BLOCKS.matches(runs(made(block=1), other))) == 1


@pytest.mark.parametrize("mark", ["code=uncommitted", "images.test=9", "protocol=1"])
def test_code_images_and_protocol_part_a_pair(mark):
    one, other = made(block=1), made(block=None)
    marked, same = made(block=1, more=mark), made(block=None, more=mark)
    assert titles(BLOCKS, marked, other) == titles(BLOCKS, one, same) == []
    assert titles(BLOCKS, marked, same) == [f"{mark}: block=1 minus block=None"]


def test_presets_that_differ_are_named():
    pair = Pair({"preset": "transfer", "blocks": 2}, {"preset": "base"})
    groups = group("transfer", "data=a blocks=2", RUN, data="a", blocks=2), group("base", "data=a", RUN, data="a")
    assert titles(pair, *groups) == ["data=a: transfer blocks=2 minus base"]
    assert titles(Pair({"preset": "base"}, {"preset": "transfer"}), *groups) == ["data=a: base minus transfer blocks=2"]


def test_what_differs_by_default_is_named_on_the_other_side_alone():
    pair = Pair({"dropout": 0.1}, {"dropout": 0.0})
    groups = group("p", "k=1 dropout=0.1", RUN, k=1, dropout=0.1), group("p", "k=1", RUN, k=1, dropout=0.0)
    assert titles(pair, *groups) == ["k=1: dropout=0.1 minus as the preset"]


def test_ignored_fields_may_differ_as_the_presets_have_them():
    def arm(preset, label, head):
        return group(preset, label, RUN, rates={"stem": 1 if preset == "one" else 2, "head": head})

    one, other = arm("one", "", 0.5), arm("other", "", 0.1)
    trial, changed = arm("one", "rates.stem=9", 0.5), arm("other", "rates.head=0.5", 0.5)
    plain = Pair({"preset": "one"}, {"preset": "other"}, ignoring=("rates",))
    assert titles(plain, one, other, trial, changed) == [": one minus other"]
    assert titles(replace(plain, ignoring=()), one, other) == []
    named = Pair({"preset": "one"}, {"preset": "other", "rates.head": 0.5}, ignoring=("rates",))
    assert titles(named, one, other, trial, changed) == [": one minus other rates.head=0.5"]


# --- the headline, and old records


def test_a_headline_is_of_the_newest_protocol_and_nearest_to_its_preset():
    old, new = ({**RUN, "protocol": number} for number in (None, 2))
    found = runs(
        group("p", "loss=a batch_size=9", new, loss="a"),
        group("p", "loss=a protocol=1", old, loss="a"),
        group("p", "loss=a", new, loss="a"),
        group("p", "loss=b", new, loss="b"),
    )
    order = ["loss=a", "loss=a batch_size=9", "loss=a protocol=1"]
    assert Headline({"loss": "a"}).places(found) == [("p", setting) for setting in order]


def test_a_headline_may_be_a_pair():
    places = Headline(BLOCKS).places(runs(made(block=1), made(block=None), made(block=2)))
    assert places == [("p", ": block=1 minus block=None")]


def test_old_names_of_fields_are_renewed_and_the_record_stays():
    old = {"run": "r", "config": {"preset": "p", "stage": "base", "seed": 0}}
    renewed = Report(renamed={"stage": "experiment"}).renew(old)
    assert renewed == {"run": "r", "config": {"preset": "p", "experiment": "base", "seed": 0}}
    assert old["config"] == {"preset": "p", "stage": "base", "seed": 0}


@dataclass(frozen=True)
class Decaying(Config):
    PROTOCOL = 2

    decay: float = 0.0


@pytest.mark.parametrize(("decay", "then", "now"), [(0.0, "", "decay=0.0"), (0.1, "decay=0.1", "")])
def test_labels_go_by_todays_presets(decay, then, now):
    before, today = (Decaying(preset="p", dataset="digits", decay=value) for value in (0.0, 0.1))
    config = replace(before, decay=decay, seed=3)
    record = {"protocol": 2, "config": config.identity(), "setting": config.setting({"p": before})}
    assert record["setting"] == f"dataset=digits {then}".strip()
    report = Report(presets={"p": today})
    assert report.renew(record)["setting"] == f"dataset=digits {now}".strip()
    assert report.renew(report.renew(record)) == report.renew(record)
    assert report.renew(record | {"protocol": 1})["setting"] == record["setting"]
    assert Report().renew(record) == record


def test_a_field_that_is_newer_than_a_record_has_its_default_there():
    """So the runs from before it stay in a table that selects by it."""
    config = Decaying(preset="p", dataset="digits").identity()
    del config["decay"]
    older = {"protocol": 2, "config": config, "setting": "dataset=digits"}
    report = Report(presets={"p": Decaying(preset="p", dataset="digits", decay=0.1)})
    renewed = report.renew(older)
    assert (renewed["config"]["decay"], renewed["setting"]) == (0.0, "dataset=digits")
    assert "decay" not in report.renew(older | {"protocol": 1})["config"]


def test_a_field_that_is_gone_is_not_in_a_label():
    config = Decaying(preset="p", dataset="digits").identity() | {"gone": 3}
    record = {"protocol": 2, "config": config, "setting": "dataset=digits"}
    assert Report(presets={"p": Decaying(preset="p", dataset="digits")}).renew(record) == record


@pytest.mark.parametrize("order", [1, -1])
def test_a_published_number_is_that_of_exactly_these_fields(order):
    written = [("p", "data=d", "60"), ("p", "data=d arm=1", "7"), ("q", "data=d", "8"), ("p", "", "9")]
    references = {(preset, setting, "m"): {"published": value} for preset, setting, value in written[::order]}
    for fields, value in (
        ({"preset": "p", "data": "d"}, 60),
        ({"preset": "p", "data": "d", "arm": 1}, 7),
        ({"preset": "q", "data": "d"}, 8),
        ({"preset": "p"}, 9),
    ):
        assert printed(references, fields, "m") == value


def test_a_name_that_begins_as_another_is_not_within_it():
    nothing = {"metrics": {}}
    assert runs(group("p", "rate=1 rates.head=9", nothing)).as_preset("rate").groups == ()
    assert len(runs(group("p", "rate.head=9", nothing)).as_preset("rate").groups) == 1
