"""A run directory as a reader sees it: the one place that knows which files a run leaves.

    config.json  environment.json  history.csv  checkpoints/  model.keras  predictions.npz  outcomes.json  figures/
    report.html  metrics.json

metrics.json comes last: a directory that has it is finished. Fine-tuning tasks leave backbone.safetensors too.
"""

import csv
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common.errors import ConfigError


class Damaged(ValueError):
    """A file that is not what a run writes; its text names the file and says what is wrong."""


@dataclass(frozen=True)
class RunFolder:
    """The files of a run."""

    path: Path

    @property
    def config_file(self) -> Path:
        """What the run depends on; written first."""
        return self.path / "config.json"

    @property
    def environment_file(self) -> Path:
        """Where, when and with what it was trained."""
        return self.path / "environment.json"

    @property
    def history_file(self) -> Path:
        """A row an epoch."""
        return self.path / "history.csv"

    @property
    def metrics_file(self) -> Path:
        """The results; written last."""
        return self.path / "metrics.json"

    @property
    def outcomes_file(self) -> Path:
        """Which test images a classifier got right (common/outcomes.py)."""
        return self.path / "outcomes.json"

    @property
    def predictions_file(self) -> Path:
        """A classifier's labels and probabilities by split, without pickle."""
        return self.path / "predictions.npz"

    @property
    def backbone_file(self) -> Path:
        """The backbone at the last phase's best epoch, by torchvision's or timm's names."""
        return self.path / "backbone.safetensors"

    @property
    def model_file(self) -> Path:
        """The network in its reported state (common/trained.py)."""
        return self.path / "model.keras"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints (common/checkpoints.py)."""
        return self.path / "checkpoints"

    @property
    def figures(self) -> Path:
        """Folder of the figures."""
        return self.path / "figures"

    @property
    def report_file(self) -> Path:
        """A completed run's own page (common/run_page)."""
        return self.path / "report.html"

    @property
    def is_run(self) -> bool:
        """Whether a run has begun here."""
        return self.config_file.is_file()

    @property
    def is_finished(self) -> bool:
        """Whether a run has ended here, completed or diverged."""
        return self.metrics_file.is_file()

    def config(self) -> dict:
        """Task, setting, protocol, digest, and the config itself. Raises Damaged."""
        return holding(self.config_file, config=dict)

    def looks(self) -> int:
        """How often the growing number of seeds that this run is one of is judged; 1 for older code. Raises Damaged."""
        options = self.config().get("options", {})
        looks = options.get("looks", 1) if isinstance(options, dict) else None
        if not isinstance(looks, int):
            raise Damaged(f"{self.config_file.name} has no options, or a number of looks that is none")
        return looks

    def environment(self) -> dict:
        """Versions, processor, devices and starts. Raises Damaged."""
        return holding(self.environment_file, starts=list)

    def metrics(self) -> dict:
        """The results, with today's names. Raises Damaged."""
        return with_todays_names(holding(self.metrics_file, status=str))

    def outcomes(self) -> dict | None:
        """Which test images were right; None if the run is no classifier's. Raises Damaged."""
        return read_json(self.outcomes_file) if self.outcomes_file.is_file() else None

    def history(self) -> list[dict]:
        """Rows with numbers, None if one is not finite; none before the first epoch has ended. Raises Damaged."""
        path = self.history_file
        if not path.is_file():
            return []
        try:
            with path.open(newline="") as file:
                rows = list(csv.DictReader(file, strict=True))
            return [{key: text if key == "phase" else number(text) for key, text in row.items()} for row in rows]
        except (OSError, TypeError, ValueError, csv.Error) as error:
            raise Damaged(f"{path.name}: {error}") from error


def with_todays_names(metrics: dict) -> dict:
    """Metrics with the key that took another name in November 2026."""
    return {"by_name" if key == "figures" else key: value for key, value in metrics.items()}


def holding(path: Path, **kinds: type) -> dict:
    """Read a JSON object that has these keys with values of these types. Raises Damaged for anything else."""
    content = read_json(path)
    for key, kind in kinds.items():
        if not isinstance(content.get(key), kind):
            raise Damaged(f"{path.name} has no {key}, or one of another kind")
    return content


def read_json(path: Path) -> dict:
    """Read a JSON object. Raises Damaged for anything else."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON number")

    try:
        content = json.loads(path.read_text(), parse_constant=refuse)
    except OSError as error:
        raise Damaged(f"{path.name}: {error.strerror}") from error
    except ValueError as error:
        raise Damaged(f"{path.name}: {error}") from error
    if not isinstance(content, dict):
        raise Damaged(f"{path.name} holds no JSON object")
    return content


def number(text: str) -> int | float | None:
    """Text as a number; None if it is empty or not finite."""
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    value = float(text or "nan")
    return value if abs(value) < float("inf") else None


def finished_run(folder: Path, kind: str, fields: Mapping[str, object], remedy: str) -> Path:
    """The folder, if a run was completed there with these values in its config.

    Raises ConfigError, which calls the run a `kind`, where there is none, with `remedy`, or where a value differs.
    """
    try:
        config, status = RunFolder(folder).config()["config"], RunFolder(folder).metrics()["status"]
    except (Damaged, KeyError):
        status = None
    if status != "completed":
        raise ConfigError(f"no finished {kind} in {folder}; {remedy}")
    for name, value in fields.items():
        if config.get(name) != value:
            raise ConfigError(f"{kind} {folder} has {name} {config.get(name)}; this run needs {value}")
    return folder


def find_run(name: str, out: Path, kind: str = "run", also: str = "") -> Path:
    """The directory of the run that goes by this name: its folder, or its name below `out`, or the end of that.

    Raises ConfigError if there is none, or more than one. Its message calls the run a `kind`, and says what is `also`
    allowed.
    """
    if RunFolder(Path(name)).is_run:
        return Path(name)
    runs = sorted(folder for folder in out.glob("*/*") if RunFolder(folder).is_run)
    found = [run for run in runs if run.name == name] or [run for run in runs if name and str(run).endswith(name)]
    if len(found) > 1:
        raise ConfigError(f"{kind} {name!r} fits {len(found)} runs in {out}: {found[0].name}, {found[1].name} ...")
    if not found:
        nothing = f"no such {'file or ' if also else ''}run"
        raise ConfigError(
            f"{kind} {name!r}: {nothing}; allowed: {also}a finished run: its folder, or the end of its name in {out}"
        )
    return found[0]
