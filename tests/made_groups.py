"""Groups of runs made by hand, for what selects, compares and draws them."""

from common.selection import Group, Runs


def group(preset, setting, *runs, **config):
    """A group of completed runs, a seed each, from what their records have beside the config."""
    return Group(preset, setting, tuple(record(run, preset, seed, config) for seed, run in enumerate(runs)))


def record(run, preset, seed, config):
    metrics = {"status": "completed"} | run.get("metrics", {})
    return run | {"config": {"preset": preset, "seed": seed, **config}, "metrics": metrics}


def runs(*groups):
    return Runs(groups)


def scored(**splits):
    """A run with these scores of its splits: `test={"loss": 1.0}`."""
    return {"metrics": splits}


def reporting(epoch, loss, **rest):
    """A run of one phase that reports an epoch and its test loss."""
    phases = {"train": {"last": {"epoch": epoch}, "images_per_second": 1.0}}
    return {"metrics": {"phases": phases, "reported": "last", "test": {"loss": loss}}, **rest}
