"""The defaults that every task's runs are named by, as they were when its protocol got its number.

A run's name leaves out what equals a default. A default that changed would so give two different runs one name, unless
the task's PROTOCOL changes with it. `python tests/tasks/defaults.py` writes defaults.json again, with new fields and
protocols; it refuses a changed default of the same protocol.
"""

import dataclasses
import json
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from slurm import plan  # noqa: E402

KEPT = Path(__file__).with_name("defaults.json")


def of(task: str) -> dict:
    """The protocol of a task, and the defaults of its config and of a phase, as JSON data."""
    preset = next(iter(plan.load_task(task).PRESETS.values()))
    kind = type(preset)
    fields = {
        f"{prefix}{field.name}": dataclasses.asdict(field.default)
        if dataclasses.is_dataclass(field.default)
        else field.default
        for prefix, each in (("", kind), ("phases.", type(preset.phases[0])))
        for field in dataclasses.fields(each)
        if field.default is not dataclasses.MISSING and field.name not in kind.OPERATIONAL
    }
    return {"protocol": kind.PROTOCOL, "defaults": fields}


def changed(kept: dict, now: dict) -> list[str]:
    """Fields whose default is another one, though the protocol is the same."""
    if now["protocol"] != kept["protocol"]:
        return []
    shared = kept["defaults"].keys() & now["defaults"].keys()
    return sorted(key for key in shared if kept["defaults"][key] != json.loads(json.dumps(now["defaults"][key])))


def main() -> None:
    """Write the file, or say what may not change."""
    kept = json.loads(KEPT.read_text()) if KEPT.is_file() else {}
    now = {task: of(task) for task in plan.tasks()}
    for task in kept.keys() & now.keys():
        if fields := changed(kept[task], now[task]):
            sys.exit(f"{task}: the default of {', '.join(fields)} has changed: raise PROTOCOL in its train.py")
    KEPT.write_text(json.dumps(now, indent=1) + "\n")


if __name__ == "__main__":
    main()
