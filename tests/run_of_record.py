"""The run directory that a record was kept from."""

import csv
import json
from pathlib import Path


def write(record: dict, folder: Path) -> None:
    """Write what `results/records.py` reads of a run into a folder, from a record of it."""
    folder.mkdir(parents=True)
    about = {key: record.get(key) for key in ("task", "setting", "protocol", "config")}
    options = {key: record[key] for key in ("looks",) if key in record}
    contents = {"config": about | {"options": options}}
    contents |= {name: record[name] for name in ("environment", "metrics", "outcomes") if name in record}
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1))
    if record["history"]:
        with (folder / "history.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, record["history"][0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(record["history"])
