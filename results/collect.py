"""Tables over seeds, with the published figures beside them, from finished runs.

    python results/collect.py                      # every task
    python results/collect.py cifar_phased --keep  # one task; its runs are kept as records, for git

Reads results/runs/<task>/*/ and results/records/<task>/*.json. Writes results/tables/<task>.csv and .md,
results/figures/, and the table between `<!-- results -->` and `<!-- /results -->` in tasks/<task>/README.md. The same
runs give the same bytes, whether they are read from run directories or from records. Runs that a table leaves out are
named on stderr with the reason.
"""

import argparse
import csv
import io
import json
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from itertools import pairwise, product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository, for `common`

from common import files
from common.config import REPOSITORY, ConfigError, choice, fail, flat

COLUMNS = ("study", "setting", "metric", "mean", "std", "n", "published", "source", "verdict", "note")
REFERENCE_COLUMNS = ("study", "setting", "metric", "published", "tolerance", "source", "note")
MEASURES = {
    "test accuracy (%)": ("test", "accuracy"),
    "test macro F1 (%)": ("test", "macro_f1"),
    "test weighted F1 (%)": ("test", "weighted_f1"),
    "test loss": ("test", "loss"),
    "validation accuracy (%)": ("validation", "accuracy"),
    "validation loss": ("validation", "loss"),
    "train accuracy (%)": ("train", "accuracy"),
    "train loss": ("train", "loss"),
    "running train loss": ("running", "loss"),
}
NOT_COMPARABLE = "not comparable:"
UNCOMMITTED = "code=uncommitted"  # ends the setting of runs whose code no commit holds
README_TABLE = re.compile(r"(<!-- results -->).*?(<!-- /results -->)", re.DOTALL)
RECORD_LIMIT = 2**20  # bytes; more does not belong in git

Groups = Mapping[tuple[str, str], Sequence[dict]]


class Unusable(Exception):
    """A run that no table can rest on; its text says why."""


def read_run(folder: Path) -> dict:
    """A finished run directory as a record: what tables and figures across runs are made from.

    Keys: run, task, setting, config, environment, metrics, history (one dict an epoch). Holds no paths and no host
    names. Raises Unusable for an unfinished or damaged run.
    """
    if not (folder / "metrics.json").is_file():
        raise Unusable("unfinished: it has no metrics.json; its command, given again, goes on")
    config, environment, metrics = (read_json(folder / f"{n}.json") for n in ("config", "environment", "metrics"))
    record = {
        "run": folder.name,
        **{key: config.get(key) for key in ("task", "setting", "config")},
        "environment": environment,
        "metrics": metrics,
        "history": read_history(folder / "history.csv"),
    }
    check(record, folder.parent.name, folder.name)
    environment["starts"] = [{k: v for k, v in start.items() if k != "host"} for start in environment["starts"]]
    return without_paths(record)


def read_record(path: Path) -> dict:
    """A record from its file. Raises Unusable for a damaged one."""
    record = read_json(path)
    check(record, path.parent.name, path.stem)
    return record


def read_json(path: Path) -> dict:
    """A JSON object. Raises Unusable for anything else."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON number")

    try:
        content = json.loads(path.read_text(), parse_constant=refuse)
    except OSError as error:
        raise Unusable(f"damaged: {path.name}: {error.strerror}") from error
    except ValueError as error:
        raise Unusable(f"damaged: {path.name}: {error}") from error
    if not isinstance(content, dict):
        raise Unusable(f"damaged: {path.name} holds no JSON object")
    return content


def read_history(path: Path) -> list[dict]:
    """Rows of history.csv with numbers as numbers, and None for one that is not finite; none without the file."""
    if not path.is_file():  # a run that diverges in its first epoch has none
        return []
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
        return [{key: text if key == "phase" else number(text) for key, text in row.items()} for row in rows]
    except (TypeError, ValueError, csv.Error) as error:
        raise Unusable(f"damaged: {path.name}: {error}") from error


def number(text: str) -> int | float | None:
    """A number in its JSON form; None for one that is empty or not finite."""
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    value = float(text or "nan")
    return value if abs(value) < float("inf") else None


def check(record: Mapping, task: str, name: str) -> None:
    """Raise Unusable unless a record is complete and is the one that its file's name says."""
    try:
        config, metrics = record["config"], record["metrics"]
        if (record["run"], record["task"]) != (name, task) or not name.endswith(f"-s{config['seed']}"):
            raise Unusable(f"damaged: it is not in its own place: task {record['task']}, seed {config['seed']}")
        if metrics["seed"] != config["seed"] or metrics["status"] not in ("completed", "diverged"):
            raise Unusable("damaged: metrics.json does not fit config.json")
        if metrics["status"] == "completed":
            if not record["history"]:
                raise Unusable("damaged: history.csv holds no epochs")
            if list(metrics.get("phases", {})) != list(dict.fromkeys(row["phase"] for row in record["history"])):
                raise Unusable("damaged: metrics.json and history.csv differ in their phases")
        # What is read later must not fail there.
        config["dataset"].split(), record["setting"].split(), label(record), measured(metrics)
        if metrics.get("phases"):
            judge = "val_accuracy" if "val_accuracy" in record["history"][0] else "val_loss"
            [float(row[key]) for row in record["history"] for key in ("loss", judge)]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Unusable(f"damaged: not what a run holds ({type(error).__name__}: {error})") from error


def without_paths(record: dict) -> dict:
    """A record with the folder of its images, if it was trained on some, cut down to its name."""
    dataset = record["config"]["dataset"]
    if not dataset.startswith("image_folder:"):
        return record
    folder = Path(dataset.removeprefix("image_folder:"))
    text = json.dumps(record)
    for long, short in ((dataset, f"image_folder:{folder.name}"), (f"{folder}/", f"{folder.name}/")):
        text = text.replace(json.dumps(long)[1:-1], json.dumps(short)[1:-1])
    return json.loads(text)


def unknown_code(record: Mapping) -> str:
    """Why nobody can find the code of a run again; empty if it can be found."""
    states = [record["environment"], *record["environment"]["starts"]]
    if any(state["commit"] is None for state in states):
        return "its code has no commit"
    if any(state["dirty"] is not False for state in states):
        return "its code had changes that were not committed"
    return ""


def measured(metrics: Mapping) -> dict[str, float]:
    """Every figure of one run by its name in the tables: percent, points, nats (loss) or images per second."""
    values = {}
    for name, (split, key) in MEASURES.items():
        if key in metrics.get(split, {}):
            values[name] = float(metrics[split][key]) * (100 if "(%)" in name else 1)
    values |= {name: float(value) for name, value in metrics.get("figures", {}).items()}
    phases = metrics.get("phases", {})
    if len(phases) == 1:
        (phase,) = phases.values()
        return values | {"images/s": float(phase["images_per_second"])}
    for name, phase in phases.items():
        for split in ("validation", "test"):
            values[f"{name} {split} accuracy (%)"] = 100 * float(phase[split]["accuracy"])
        values[f"{name} images/s"] = float(phase["images_per_second"])
    for (before, after), split in product(pairwise(phases), ("validation", "test")):
        gain = values[f"{after} {split} accuracy (%)"] - values[f"{before} {split} accuracy (%)"]
        values[f"{after} - {before} {split} accuracy (points)"] = gain
    return values


def label(record: Mapping) -> tuple[str, str]:
    """Study and setting of a run. Runs of uncommitted code are a setting of their own."""
    return record["config"]["preset"], f"{record['setting']} {UNCOMMITTED if unknown_code(record) else ''}".strip()


def find(task: str, runs: Path, records: Path, complaints: list[str]) -> tuple[list[dict], list[dict]]:
    """Finished runs of a task, once each, sorted by name: all of them, and those from run directories.

    Where a run directory and a record of one name differ, the run directory counts, unless its code is unknown.
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
        if record["metrics"]["status"] == "diverged":
            complaints.append(f"diverged: {task}/{name}: {record['metrics'].get('diverged', {}).get('reason', '')}")
        if reason := unknown_code(record):
            complaints.append(f"uncommitted: {task}/{name}: {reason}; it stands apart as {UNCOMMITTED}")
    return [every[name] for name in sorted(every)], list(here.values())


def usable(read: Callable[[Path], dict], paths: Sequence[Path], place: str, complaints: list[str]) -> dict[str, dict]:
    """Records by name of what can be read; the rest become complaints."""
    found = {}
    for path in paths:
        try:
            found[path.name.removesuffix(".json")] = read(path)
        except Unusable as reason:
            kind, text = str(reason).split(": ", 1)
            complaints.append(f"{kind}: {place}{path.name}: {text}")
    return found


def keep(found: Sequence[Mapping], folder: Path, complaints: list[str]) -> None:
    """Write the records of finished runs. Raises StorageError."""
    for record in found:
        name = f"{record['task']}/{record['run']}"
        content = (json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
        path = folder / f"{name}.json"
        if reason := unknown_code(record):
            complaints.append(f"not kept: {name}: {reason}")
        elif len(content) >= RECORD_LIMIT:
            complaints.append(f"not kept: {name}: its record has {len(content):,} bytes; allowed: under 1 MiB")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write(path, content)


def group(records: Sequence[dict], complaints: list[str]) -> Groups:
    """Runs that differ in the seed alone, by (study, setting), sorted.

    A setting tells how a config differs from its preset, so a preset that was changed between two runs leaves them
    with one setting and two configs: these get the differing fields added.
    """
    variants = defaultdict(lambda: defaultdict(list))
    for record in records:
        fields = {key: value for key, value in record["config"].items() if key != "seed"}
        # The hash in the name tells image folders of one name apart.
        fields["run"] = record["run"].removesuffix(f"-s{record['config']['seed']}").rsplit("-", 1)[-1]
        variants[label(record)][json.dumps(fields, sort_keys=True)].append(record)
    groups = {}
    for (study, setting), by_config in variants.items():
        configs = [flat(json.loads(text)) for text in by_config]
        names = sorted({key for config in configs for key in config} - {"run"})
        differing = [key for key in names if len({json.dumps(config.get(key)) for config in configs}) > 1]
        differing = differing or ["run"]
        if len(configs) > 1:
            complaints.append(
                f"kept apart: {study}, {setting}: {len(configs)} configurations, differing in {', '.join(differing)}"
            )
        for config, members in zip(configs, by_config.values(), strict=True):
            fields = [f"{key}={config.get(key)}" for key in differing] if len(configs) > 1 else []
            groups[study, " ".join([setting, *fields])] = members
    return dict(sorted(groups.items()))


def completed(records: Sequence[dict]) -> list[dict]:
    """Those that did not diverge."""
    return [record for record in records if record["metrics"]["status"] == "completed"]


def notes(records: Sequence[dict]) -> list[str]:
    """What a reader of a group's figures should know, each thing once."""
    lost = len(records) - len(completed(records))
    found = [f"{lost} of {len(records)} runs diverged{' and are left out' * (lost < len(records))}"] if lost else []
    for fact in ("backend", "precision"):
        values = sorted({str(record["environment"].get(fact)) for record in completed(records)})
        if len(values) > 1:
            found.append(f"runs differ in {fact}: {', '.join(values)}")
    return list(dict.fromkeys(found + [note for r in completed(records) for note in r["metrics"].get("notes", ())]))


def loss_digits(loss: float) -> int:
    """Digits after the point that a loss of this size is told with."""
    return 0 if loss >= 1000 else 4 if loss > 0.1 else 5


def ends(records: Sequence[dict]) -> list[str]:
    """How diverged runs ended."""
    return [record["metrics"].get("diverged", {}).get("reason", "") for record in records]


def read_references(path: Path) -> dict[tuple[str, str, str], dict]:
    """Published figures by (study, setting, metric). Raises ConfigError for a file that cannot be used."""
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    if tuple(reader.fieldnames or ()) != REFERENCE_COLUMNS:
        raise ConfigError(f"{path}: its columns must be {','.join(REFERENCE_COLUMNS)}")
    for line, row in enumerate(rows, start=2):
        try:
            Decimal(row["published"]), Decimal(row["tolerance"] or 0)
        except (InvalidOperation, TypeError):
            raise ConfigError(f"{path}, row {line}: published and tolerance must be numbers") from None
    return {(row["study"], row["setting"], row["metric"]): row for row in rows}


def tabulate(groups: Groups, references: Mapping[tuple[str, str, str], Mapping]) -> list[dict[str, str]]:
    """Rows of the table, with COLUMNS as keys: a row a figure, measured, published or both.

    `std` is the sample standard deviation over seeds (n - 1), empty for one seed.
    """
    rows, missing = [], dict(references)
    for (study, setting), records in groups.items():
        if not completed(records):
            published = [key for key in missing if key[:2] == (study, setting)] or [(study, setting, "status")]
            nothing = {"mean": "", "std": "", "n": "0"}
            remarks = [*notes(records), *ends(records)]
            rows += [beside(key, nothing, missing.pop(key, None), remarks) for key in published]
        values = defaultdict(list)
        for record in completed(records):
            for metric, value in measured(record["metrics"]).items():
                values[metric].append(value)
        for metric, each in values.items():
            if "(points)" in metric and len(each) < 2:
                continue
            digits = 1 if "images/s" in metric else 2 if "loss" not in metric else loss_digits(max(each))
            figures = {
                "mean": f"{statistics.fmean(each):z.{digits}f}",
                "std": f"{statistics.stdev(each):.{digits}f}" if len(each) > 1 else "",
                "n": str(len(each)),
            }
            key = (study, setting, metric)
            rows.append(beside(key, figures, missing.pop(key, None), notes(records)))
    rows += [beside(key, {"mean": "", "std": "", "n": ""}, reference, []) for key, reference in missing.items()]
    return sorted(rows, key=lambda row: (row["study"], natural(row["setting"])))


def natural(text: str) -> list[tuple[float, str]]:
    """A key that sorts texts by the size of the numbers in them: k=2 before k=10."""
    parts = re.split(r"(\d+(?:\.\d+)?(?:e[-+]?\d+)?)", text)
    return [(float(part), "") if odd % 2 else (0.0, part) for odd, part in enumerate(parts)]


def beside(
    key: tuple[str, str, str], figures: Mapping[str, str], reference: Mapping[str, str] | None, remarks: Sequence[str]
) -> dict[str, str]:
    """One row: measured figures beside the published one; `remarks` are notes of the runs."""
    published = reference or {}
    return {
        **dict(zip(("study", "setting", "metric"), key, strict=True)),
        **figures,
        "published": published.get("published", ""),
        "source": published.get("source", ""),
        "verdict": verdict(key[2], figures["mean"], figures["std"], reference) if reference else "",
        "note": "; ".join(filter(None, [published.get("note", ""), *remarks])),
    }


def verdict(metric: str, mean: str, std: str, reference: Mapping[str, str]) -> str:
    """How a measured figure stands to the published one, from the digits that the table shows."""
    if not mean:
        return "not measured"
    if reference["note"].startswith(NOT_COMPARABLE):
        return "not comparable"
    above = Decimal(mean) - Decimal(reference["published"])
    if abs(above) <= max(Decimal(reference["tolerance"] or 0), Decimal(std or 0)):
        return "reproduced"
    return "better" if (above < 0) == ("loss" in metric) else "worse"


def csv_text(rows: Sequence[Mapping[str, str]]) -> str:
    """The table as CSV."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def markdown(table: str) -> str:
    """The CSV table as Markdown: one table a study, the setting in the first of its rows."""
    lines = ["Mean ± standard deviation over n seeds. Made by `python results/collect.py`.", ""]
    study = setting = None
    for cells in csv.DictReader(io.StringIO(table)):
        cells = {key: cell.replace("|", r"\|") for key, cell in cells.items()}
        if cells["study"] != study:
            study, setting = cells["study"], None
            heads = ("setting", "metric", "mean ± std (n)", "published (source)", "verdict", "note")
            lines += [*([""] if lines[-1] else []), f"### `{study}`", "", joined(heads), joined(["---"] * len(heads))]
        spread = f" ± {cells['std']}" if cells["std"] else ""
        ours = f"{cells['mean']}{spread} ({cells['n']})" if cells["mean"] else ""
        theirs = f"{cells['published']} ({cells['source']})" if cells["published"] else ""
        first = "" if cells["setting"] == setting else f"`{cells['setting']}`"
        setting = cells["setting"]
        lines.append(joined([first, cells["metric"], ours, theirs, cells["verdict"], cells["note"]]))
    return "\n".join(lines) + "\n"


def compact(table: str) -> str:
    """The CSV table as Markdown for a README, the headline figures alone: one table a study.

    A row is a setting, or, where that would be too wide, a figure.
    """
    lines = ["Mean ± standard deviation (n seeds), and the published figure. Made by `python results/collect.py`."]
    lines += ["Every figure, with verdicts and notes, is in `results/tables/`."]
    rows = list(csv.DictReader(io.StringIO(table)))
    published = {row["metric"] for row in rows if row["published"]}
    rows = [row for row in rows if row["metric"] in published or not any(part in row["metric"] for part in DETAILS)]
    for study in dict.fromkeys(row["study"] for row in rows):
        ours = [row for row in rows if row["study"] == study]
        cells = {(f"`{row['setting']}`", row["metric"]): cell(row) for row in ours}
        settings, metrics = (list(dict.fromkeys(names)) for names in zip(*cells, strict=True))
        wide = len(metrics) > MOST_COLUMNS
        heads = ["figure", *settings] if wide else ["setting", *metrics]
        lines += ["", f"### `{study}`", "", joined(heads), joined(["---"] * len(heads))]
        if wide:
            lines += [joined([m, *(cells.get((s, m), "") for s in settings)]) for m in metrics]
        else:
            lines += [joined([s, *(cells.get((s, m), "") for m in metrics)]) for s in settings]
        listed = listed_notes(ours)
        lines += ["", *listed] if listed else []
    return "\n".join(lines) + "\n"


def listed_notes(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """A study's notes as a list, each thing once; one that holds for some settings alone, with how many or which."""
    settings = {row["setting"] for row in rows}
    places = defaultdict(dict)
    for row in rows:
        for note in filter(None, row["note"].split("; ")):
            places[note][row["setting"]] = None
    lines = []
    for note, named in places.items():
        which = " and ".join(f"`{setting}`" for setting in named) if len(named) < 3 else f"{len(named)} settings"
        lines.append(f"- {note}" if len(named) == len(settings) else f"- {which}: {note}")
    return lines


# What a README leaves to the full table, unless a source has published it.
DETAILS = ("F1", "images/s", "points", "validation loss")
MOST_COLUMNS = 9


def cell(row: Mapping[str, str]) -> str:
    """A figure with its spread and n, then the published one with the verdict."""
    spread = f" ± {row['std']}" if row["std"] else ""
    ours = f"{row['mean']}{spread} ({row['n']})" if row["mean"] else "diverged" if row["n"] == "0" else ""
    theirs = f"published {row['published']}: {row['verdict']}" if row["published"] else ""
    return "; ".join(filter(None, [ours, theirs])).replace("|", r"\|")


def joined(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


# Functions of results/drawings.py.
FIGURES = {
    "cifar_phased": ("phases", "curves"),
    "hinge_svm": ("validation_loss",),
    "permuted_cnn": ("curves", "locality"),
    "autoencoder_sweep": ("sweep", "transfer"),
    "rotation_contrastive": ("curves", "transferred_blocks"),
    "fer_layerwise_lr": ("curves", "arms"),
}


def collect(task: str, runs: Path, root: Path, keeping: bool) -> None:
    """Make everything of one task anew, and print it."""
    results, complaints = root / "results", []
    records, here = find(task, runs, results / "records", complaints)
    if keeping:
        keep(here, results / "records", complaints)
    groups = group(records, complaints)
    rows = tabulate(groups, read_references(root / "tasks" / task / "reference.csv"))
    if rows:
        table = csv_text(rows)
        text = markdown(table)
        (results / "tables").mkdir(parents=True, exist_ok=True)
        files.write(results / "tables" / f"{task}.csv", table.encode())
        files.write(results / "tables" / f"{task}.md", text.encode())
        fill_readme(root / "tasks" / task / "README.md", compact(table))
        if drawn := {key: members for key, records in groups.items() if (members := completed(records))}:
            from results import drawings

            for name in FIGURES.get(task, ()):
                getattr(drawings, name)(drawn, results / "figures" / f"{task}_{name}.png")
        print(f"# {task}\n\n{text}", flush=True)
    else:
        complaints.append(f"nothing to tabulate: {task}: no finished runs, no records, no reference.csv")
    for complaint in complaints:
        print(complaint, file=sys.stderr, flush=True)


def fill_readme(path: Path, table: str) -> None:
    """Put the table between the marks of a README, if it has both."""
    text = path.read_text() if path.is_file() else ""
    filled = README_TABLE.sub(lambda marks: f"{marks[1]}\n\n{table}\n{marks[2]}", text)
    if filled != text:
        files.write(path, filled.encode())


def main(argv: Sequence[str] | None = None, root: Path = REPOSITORY) -> None:
    """The command; `root` is the repository. Exit codes: 0, 2 for bad input, 1 for what cannot be read or written."""
    known = sorted(path.parent.name for path in root.glob("tasks/*/train.py"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"any of {', '.join(known)} (default: all)")
    parser.add_argument("--keep", action="store_true", help="copy finished runs into results/records")
    parser.add_argument("--runs", type=Path, metavar="DIR", help="folder of runs (default: results/runs)")
    parser.error = fail
    arguments = parser.parse_args(argv)
    runs = arguments.runs or root / "results" / "runs"
    try:
        for task in arguments.tasks:
            choice("task", task, known)
        if arguments.runs and not runs.is_dir():
            raise ConfigError(f"folder of runs {runs} is not there")
        for task in dict.fromkeys(arguments.tasks or known):
            collect(task, runs, root, arguments.keep)
    except ConfigError as error:
        fail(str(error))
    except OSError as error:
        fail(str(error), 1)


if __name__ == "__main__":
    main()
