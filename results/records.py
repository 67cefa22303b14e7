"""Finished runs as records, and in groups of seeds. Knows runs by their files alone."""

import hashlib
import json
import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import UnionType

from common import files
from common.config import flat
from common.files import LARGEST, Damaged, holding, read_json
from common.measured import measured
from common.outcomes import unpacked
from common.run_folder import STATUSES, RunFolder, with_todays_names
from common.selection import Group, Runs, protocol
from common.words import Word

UNCOMMITTED = "code=uncommitted"  # appended to the setting of runs whose code is in no commit
RECORD_LIMIT = 2**20  # bytes; larger files do not belong in git


class Unusable(Exception):
    """A run that cannot be used in a table; the message is the reason."""


def read_run(folder: Path) -> dict:
    """A finished run directory as a record, from which tables and figures across runs are made.

    Keys: run, task, setting, protocol, config, environment, metrics, history (one dict per epoch); for classifiers
    outcomes; if seeds are added until decided, looks. Contains no paths and no host names. Raises Unusable for an
    unfinished or damaged run.
    """
    files = RunFolder(folder)
    if not files.is_finished:
        raise Unusable("unfinished: it has no metrics.json; the same command again continues it")
    try:
        config, environment = files.config(), files.environment()
        record = {
            "run": folder.name,
            **{key: config.get(key) for key in ("task", "setting", "protocol", "config")},
            "environment": environment,
            "metrics": files.metrics(),
            "history": files.history(),
        }
        if outcomes := files.outcomes():
            record["outcomes"] = outcomes
        if (looks := files.looks()) > 1:
            record["looks"] = looks
    except Damaged as error:
        raise Unusable(f"damaged: {error}") from error
    check(record, folder.parent.name, folder.name)
    environment["starts"] = [{k: v for k, v in start.items() if k != "host"} for start in environment["starts"]]
    return without_paths(record)


def read_record(path: Path) -> dict:
    """Read a record from its file, without its digest. Raises Unusable if it is damaged, or was changed."""
    try:
        record = read_json(path, metrics=dict, digest=str | None)
    except Damaged as error:
        raise Unusable(f"damaged: {error}") from error
    if record.pop("digest", digest(record)) != digest(record):
        raise Unusable(f"damaged: {path.name} was changed after it was written: its digest is another")
    record["metrics"] = with_todays_names(record["metrics"])
    check(record, path.parent.name, path.stem)
    return record


def digest(record: Mapping) -> str:
    """SHA-256 of what a record says, however its file is laid out; records from before 28 November 2026 have none."""
    said = {key: value for key, value in record.items() if key != "digest"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def check(record: Mapping, task: str, name: str) -> None:
    """Raise Unusable unless a record is complete and matches the name of its file."""
    try:
        check_kinds(record)
        config, metrics = record["config"], record["metrics"]
        if (record["run"], record["task"]) != (name, task) or not name.endswith(f"-s{config['seed']}"):
            raise Unusable(f"damaged: it is in the wrong place: task {record['task']}, seed {config['seed']}")
        if metrics["seed"] != config["seed"]:
            raise Unusable("damaged: metrics.json does not match config.json")
        if metrics["status"] == "completed":
            if not record["history"]:
                raise Unusable("damaged: history.csv holds no epochs")
            if list(metrics.get("phases", {})) != list(dict.fromkeys(row["phase"] for row in record["history"])):
                raise Unusable("damaged: metrics.json and history.csv differ in their phases")
        # Try here what is read later, so that it cannot fail there.
        label(record), measured(metrics)
        if record.get("looks", 1) < 1:
            raise Unusable(f"damaged: looks is {record['looks']}")
        if metrics.get("phases"):
            judge = "val_accuracy" if "val_accuracy" in record["history"][0] else "val_loss"
            [float(row[key]) for row in record["history"] for key in ("loss", judge)]
        if "outcomes" in record:
            check_outcomes(record["outcomes"], metrics)
    except Damaged as error:
        raise Unusable(f"damaged: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise Unusable(f"damaged: not what a run holds ({type(error).__name__}: {error})") from error


def check_kinds(record: Mapping) -> None:
    """Raise Damaged unless the parts of a record that every task has are of their kinds."""
    number = int | float
    holding(record, "the record", task=str, setting=str, protocol=int | None, config=dict, environment=dict)
    holding(record, "the record", metrics=dict, history=list, **if_there(record, outcomes=dict, looks=int))
    config, environment, metrics = record["config"], record["environment"], record["metrics"]
    holding(config, "config", preset=str, dataset=str, seed=int, limit_test=int | None, **if_there(config, weights=str))
    known = if_there(environment, backend=str, precision=str, processor=dict)
    holding(environment, "environment", starts=list, **known)
    for state in (environment, *environment["starts"]):
        holding(state, "environment", commit=str | None, dirty=bool | None, **if_there(state, versions=dict))
        each(state.get("versions", {}), "versions", str)
    known = if_there(
        metrics, images=dict, notes=list, by_name=dict, phases=dict, reported=str, diverged=dict, test_images_of=int
    )
    holding(metrics, "metrics", seed=int, **known)
    if metrics.get("status") not in STATUSES:
        raise Damaged("metrics has no status, or one of another kind")
    each(dict(enumerate(metrics.get("notes", ()))), "notes", str)
    each(metrics.get("images", {}), "images", int)
    each(metrics.get("by_name", {}), "by_name", number)
    each({"reason": metrics.get("diverged", {}).get("reason", "")}, "diverged", str)
    for phase in metrics.get("phases", {}).values():
        holding(phase, "a phase in metrics", images_per_second=number, **if_there(phase, seconds=number, epochs=int))
    scored = [metrics, *metrics.get("phases", {}).values()]
    for split in (part[name] for part in scored for name in ("validation", "test") if name in part):
        holding(split, "a split in metrics", **if_there(split, n=int, loss=number, accuracy=number))
    for row in record["history"]:
        each({key: value for key, value in row.items() if key != "phase"}, "history", number | None)
        holding(row, "history", phase=str)
    if any(abs(value) > LARGEST for value in flat(metrics).values() if isinstance(value, int)):
        raise Damaged("metrics has a number that no run writes")


def if_there(content: Mapping, **kinds: type | UnionType) -> dict[str, type | UnionType]:
    """Those kinds whose keys are there."""
    return {key: kind for key, kind in kinds.items() if key in content}


def each(content: Mapping, where: str, kind: type | UnionType) -> None:
    """Raise Damaged unless every value is of this kind."""
    named = {str(key): value for key, value in content.items()}
    holding(named, where, **dict.fromkeys(named, kind))


def check_outcomes(outcomes: Mapping, metrics: Mapping) -> None:
    """Raise Damaged or ValueError unless outcomes can be unpacked, and are of as many images as were tested."""
    holding(outcomes, "outcomes", n=int, labels=str, predicted=str, right=dict)
    holding(outcomes["right"], "right in outcomes", **dict.fromkeys(outcomes["right"], str))
    if outcomes["n"] != metrics["test"]["n"]:
        raise Damaged(f"outcomes are of {outcomes['n']} images, metrics of {metrics['test']['n']}")
    try:
        unpacked(outcomes)
    except zlib.error as error:
        raise Damaged(f"outcomes: {error}") from error


def without_paths(record: dict) -> dict:
    """A record in which the path of an image folder is reduced to the folder's name."""
    dataset = record["config"]["dataset"]
    if not dataset.startswith("image_folder:"):
        return record
    folder = Path(dataset.removeprefix("image_folder:"))
    text = json.dumps(record)
    for long, short in ((dataset, f"image_folder:{folder.name}"), (f"{folder}/", f"{folder.name}/")):
        text = text.replace(json.dumps(long)[1:-1], json.dumps(short)[1:-1])
    return json.loads(text)


def unknown_code(record: Mapping) -> str:
    """Why the code of a run cannot be found in git; empty if it can."""
    states = [record["environment"], *record["environment"]["starts"]]
    if any(state["commit"] is None for state in states):
        said = {str(state["git"]) for state in states if state.get("git")}
        return "its code has no commit" + "".join(f" (git: {reason})" for reason in sorted(said))
    if any(state["dirty"] is not False for state in states):
        return "its code had changes that were not committed"
    return ""


def looks_at(records: Sequence[Mapping]) -> int:
    """How often the growing number of these runs is judged: what the one with the most looks says."""
    return max(record.get("looks", 1) for record in records)


def label(record: Mapping, current: int = 1) -> tuple[str, str]:
    """Preset and setting of a run; the setting also marks uncommitted code and protocols older than `current`."""
    apart = [f"protocol={protocol(record)}"] if protocol(record) < current else []
    apart += [UNCOMMITTED] if unknown_code(record) else []
    return record["config"]["preset"], " ".join([record["setting"], *apart]).strip()


def find(task: str, runs: Path, records: Path, complaints: list[str]) -> tuple[list[dict], list[dict]]:
    """Finished runs of a task, sorted by name: all of them, and separately those that have a run directory.

    If a run directory and a record of the same name differ, the run directory is used, unless its code is uncommitted.
    Appends to `complaints` what a reader should know.
    """
    folders = [path for path in sorted((runs / task).glob("*")) if path.is_dir()]
    here = usable(read_run, folders, f"{task}/", complaints)
    kept = usable(read_record, sorted((records / task).glob("*.json")), f"records/{task}/", complaints)
    every = kept | here
    for name in sorted(here.keys() & kept.keys()):
        if here[name] != kept[name]:
            every[name] = kept[name] if unknown_code(here[name]) else here[name]
            winner = "record" if every[name] is kept[name] else "run directory"
            complaints.append(f"differs: {task}/{name}: run directory and record disagree; the {winner} counts")
    for name, record in every.items():
        if name in here and record["metrics"]["status"] == "diverged":  # of a record, the table says it
            complaints.append(f"diverged: {task}/{name}: {record['metrics'].get('diverged', {}).get('reason', '')}")
        if reason := unknown_code(record):
            complaints.append(
                f"uncommitted: {task}/{name}: {reason}; it stands apart as {UNCOMMITTED}, and counts for no claim"
            )
    return [every[name] for name in sorted(every)], list(here.values())


def usable(read: Callable[[Path], dict], paths: Sequence[Path], place: str, complaints: list[str]) -> dict[str, dict]:
    """Read the records, by name; those that cannot be used become complaints."""
    found = {}
    for path in paths:
        try:
            found[path.name.removesuffix(".json")] = read(path)
        except Unusable as reason:
            kind, text = str(reason).split(": ", 1)
            complaints.append(f"{kind}: {place}{path.name}: {text}")
    return found


def keep(found: Sequence[Mapping], folder: Path, complaints: list[str]) -> None:
    """Write the records of finished runs, with their digests; one that is there already stays. Raises StorageError."""
    for record in found:
        name = f"{record['task']}/{record['run']}"
        sealed = {**record, "digest": digest(record)}
        content = (json.dumps(sealed, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
        path = folder / f"{name}.json"
        if is_kept(record, path):
            continue
        if reason := unknown_code(record):
            complaints.append(f"not kept: {name}: {reason}")
        elif len(content) >= RECORD_LIMIT:
            complaints.append(f"not kept: {name}: its record has {len(content):,} bytes; allowed: under 1 MiB")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write(path, content)


def is_kept(record: Mapping, path: Path) -> bool:
    """Whether the file says the same already: a record from before there were digests stays as it is."""
    try:
        return read_record(path) == record
    except Unusable:
        return False


def group(
    records: Sequence[dict], complaints: list[str], current: int = 1, words: Mapping[str, Word] | None = None
) -> Runs:
    """Runs in groups that differ in the seed alone, sorted; `current` is the task's protocol of today, `words` its own.

    A setting says how a config differs from its preset. If a preset changed between two runs, they have the same
    setting but different configs; the fields that differ are then added to the setting. The same holds for runs on
    different numbers of images, since a copy of a data set may be incomplete. A diverged run does not record that
    number and stays with the others.
    """
    counts = {run_of_seeds(record): record["metrics"]["images"] for record in records if "images" in record["metrics"]}
    variants: dict[tuple[str, str], dict[str, list[dict]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        # The hash in the name covers the config, except for fields that the code of the run did not have yet.
        digest = run_of_seeds(record).rsplit("-", 1)[-1]
        images = record["metrics"].get("images", counts.get(run_of_seeds(record)))
        variants[label(record, current)][json.dumps([digest, images])].append(record)
    groups = []
    for (preset, setting), by_config in variants.items():
        configs = []
        for text, members in by_config.items():
            digest, images = json.loads(text)
            fields = {key: value for key, value in members[-1]["config"].items() if key != "seed"}
            configs.append(flat(fields | {"run": digest, "images": images}))
        names = sorted({key for config in configs for key in config} - {"run"})
        # A field that some of them lack is one that their code did not have yet.
        shared = [key for key in names if all(key in config for config in configs)]
        differing = [key for key in shared if len({json.dumps(config[key]) for config in configs}) > 1]
        differing = differing or ["run"]
        if len(configs) > 1:
            complaints.append(
                f"kept apart: {preset}, {setting}: {len(configs)} configurations, differing in {', '.join(differing)}"
            )
        for config, every in zip(configs, by_config.values(), strict=True):
            members = one_a_seed(every, complaints)
            apart = [f"{key}={config.get(key)}" for key in differing] if len(configs) > 1 else []
            groups.append(Group(preset, " ".join([setting, *apart]), tuple(members), words or {}))
    return Runs(tuple(sorted(groups, key=lambda group: (group.preset, natural(group.setting)))))


def one_a_seed(records: Sequence[dict], complaints: list[str]) -> list[dict]:
    """These records without copies: one of each seed, that of the shortest name, as copies are named after it."""
    found: dict[int, dict] = {}
    for record in sorted(records, key=lambda record: len(record["run"])):
        first = found.setdefault(record["config"]["seed"], record)
        if first is not record:
            names = f"{record['task']}/{record['run']} and {first['run']}"
            complaints.append(f"twice: {names} are one configuration and seed; the second counts")
    return [record for record in records if found[record["config"]["seed"]] is record]


def natural(text: str) -> list[tuple[float, str]]:
    """A sort key that compares the numbers in a text by value: k=2 comes before k=10."""
    parts = re.split(r"(\d+(?:\.\d+)?(?:e[-+]?\d+)?)", text)
    return [(float(part), "") if odd % 2 else (0.0, part) for odd, part in enumerate(parts)]


def run_of_seeds(record: Mapping) -> str:
    """A run's name without its seed."""
    return record["run"].removesuffix(f"-s{record['config']['seed']}")
