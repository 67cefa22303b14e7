"""A run directory as a reader sees it: the one place that knows which files a run leaves.

    config.json  environment.json  history.csv  checkpoints/  model.keras  predictions.npz  outcomes.json  figures/
    report.html  metrics.json

metrics.json comes last: a directory that has it is finished. Fine-tuning tasks leave backbone.safetensors too.
"""

import os
import re
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from common.errors import ConfigError, positive
from common.files import LARGEST, Damaged, holding, read_csv, read_json, take

STATUSES = ("completed", "diverged")


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

    def finished_at(self) -> float:
        """When it was finished, in seconds since 1970."""
        return self.metrics_file.stat().st_mtime

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
        """A classifier's labels and probabilities by split, and the files of a folder's images, without pickle."""
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
        return os.path.isfile(self.config_file)  # noqa: PTH113 (Path.is_file raises for a name that is too long)

    @property
    def is_finished(self) -> bool:
        """Whether a run has ended here, completed or diverged."""
        return os.path.isfile(self.metrics_file)  # noqa: PTH113 (as above)

    @property
    def has_metrics(self) -> bool:
        """Whether a run has ended here, and what it measured can be read; if not, its next start says what to do."""
        try:
            return self.is_finished and bool(self.metrics())
        except Damaged:
            return False

    @property
    def can_resume(self) -> bool:
        """Whether there is a checkpoint from which training goes on; best epochs are none, nor is what `prune` left."""
        return any(map(has_arrays, self.checkpoints.glob("step-*.safetensors")))

    @property
    def lock_file(self) -> Path:
        """Whoever writes here holds its lock."""
        return self.path / ".lock"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock. Raises BlockingIOError if another process has it, OSError if the folder cannot be written."""
        with self.lock_file.open("a+") as lock:
            take(lock)
            yield

    def config(self) -> dict:
        """Task, setting, protocol, digest, and the config itself. Raises Damaged."""
        return read_json(self.config_file, config=dict)

    def looks(self) -> int:
        """How often the growing number of seeds that this run is one of is judged; 1 for older code. Raises Damaged."""
        content = self.config()
        # Older code, from before there were looks, wrote none.
        looks = holding(content.get("options", {}), f"options in {self.config_file.name}", looks=int | None).get(
            "looks"
        )
        if looks is not None and looks < 1:
            raise Damaged(f"{self.config_file.name}: looks is {looks}")
        return looks or 1

    def environment(self) -> dict:
        """Versions, processor, devices and starts. Raises Damaged."""
        content = read_json(self.environment_file, starts=list, epochs=int | None, data=dict | None, unread=dict | None)
        for key in ("data", "unread"):
            if content.get(key):
                holding(content[key], f"{key} in {self.environment_file.name}", images=int, digest=str)
        for start in content["starts"]:
            holding(start, f"a start in {self.environment_file.name}")
        return content

    def metrics(self) -> dict:
        """The results, with today's names. Raises Damaged."""
        content = with_todays_names(read_json(self.metrics_file, status=str, diverged=dict | None))
        if content["status"] not in STATUSES:
            raise Damaged(f"{self.metrics_file.name} has status {content['status']!r}; known: {', '.join(STATUSES)}")
        if "diverged" in content:
            holding(content["diverged"], f"diverged in {self.metrics_file.name}", reason=str | None)
        return content

    def outcomes(self) -> dict | None:
        """Which test images were right; None if the run is no classifier's. Raises Damaged."""
        if not self.outcomes_file.is_file():
            return None
        return read_json(self.outcomes_file, n=int, labels=str, predicted=str, right=dict)

    def class_names(self) -> list[str]:
        """Of a classifier, from predictions.npz. Raises Damaged."""
        import numpy as np  # here, as `--help` does without

        try:
            with self.predictions_file.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return [str(name) for name in arrays["class_names"]]
        except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise Damaged(f"{self.predictions_file.name}: {error or type(error).__name__}") from error

    def history(self) -> list[dict]:
        """Rows with numbers, None if one is not finite; none before the first epoch has ended. Raises Damaged."""
        path = self.history_file
        if not path.is_file():
            return []
        rows = read_csv(path, columns=("phase",))
        try:
            return [{key: text if key == "phase" else number(text) for key, text in row.items()} for row in rows]
        except ValueError as error:
            raise Damaged(f"{path.name}: {error}") from error


def with_todays_names(metrics: dict) -> dict:
    """Metrics with the key that took another name in November 2026."""
    return {"by_name" if key == "figures" else key: value for key, value in metrics.items()}


def number(text: str) -> int | float | None:
    """Text as a number; None if it is empty or not finite."""
    if re.fullmatch(r"-?[0-9]{1,38}", text):
        return int(text)
    value = float(text or "nan")
    return value if abs(value) <= LARGEST else None


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


def check_classifier(run: RunFolder, phase: str | None = None) -> None:
    """Raise ConfigError unless a classifier's run has been completed here, with all that is needed to use it.

    Of a `phase` too, if one is named.
    """
    try:
        about, metrics, _ = run.config(), run.metrics(), run.environment()
        if metrics["status"] != "completed":
            raise ConfigError(f"{run.path}: this run {metrics['status']}, so there is no network to use")
        holding(about, run.config_file.name, task=str, setting=str)
        holding(about["config"], f"config in {run.config_file.name}", preset=str, dataset=str, seed=int, batch_size=int)
        holding(metrics, run.metrics_file.name, phases=dict, test=dict, images=dict)
        positive(f"batch_size in {run.config_file.name}", about["config"]["batch_size"])
    except Damaged as error:
        raise ConfigError(f"{run.path} holds no finished run: {error}") from error
    if not run.predictions_file.is_file():
        raise ConfigError(f"{run.path} has no predictions.npz: it is no classifier's run, or that file was not copied")
    if not run.model_file.is_file():
        raise ConfigError(
            f"{run.path} has no model.keras: it was not copied, or older code trained it; --overwrite does it again"
        )
    try:
        run.class_names()
    except Damaged as error:
        raise ConfigError(f"{run.path} is damaged: {error}") from error
    if phase is not None and phase not in metrics["phases"]:
        raise ConfigError(f"{run.path} has no phase {phase!r}; allowed: {', '.join(metrics['phases'])}")


def find_classifier(name: str, out: Path, phase: str | None = None) -> Path:
    """As `find_run`, of a classifier's run that has been completed. Raises ConfigError, before Keras is loaded."""
    folder = find_run(name, out)
    check_classifier(RunFolder(folder), phase)
    return folder


def has_arrays(checkpoint: Path) -> bool:
    """Whether anything follows the header of a safetensors file, whose length is in its first eight bytes."""
    with suppress(OSError), checkpoint.open("rb") as file:
        return os.fstat(file.fileno()).st_size > 8 + int.from_bytes(file.read(8), "little")
    return False


def find_run(name: str, out: Path, kind: str = "run", also: str = "") -> Path:
    """The directory of the run that goes by this name: its folder, or its name below `out`, or the end of that.

    Raises ConfigError as `meant` does.
    """
    if RunFolder(Path(name)).is_run:
        return Path(name)
    runs = {f"{folder.parent.name}/{folder.name}": folder for folder in out.glob("*/*") if RunFolder(folder).is_run}
    finished = {key: RunFolder(folder) for key, folder in runs.items() if RunFolder(folder).is_finished}
    newest = sorted(finished.values(), key=RunFolder.finished_at, reverse=True)[:3]
    there = f"; the newest: {', '.join(run.path.name for run in newest)}" if newest else ""
    allowed = f"{also}a finished run: its folder, or the end of its name in {out}{there}"
    # The run that asks for another one may itself have a name with this end.
    return runs[meant(name, runs, allowed, kind, rather=finished)]


def meant(
    text: str, names: Collection[str], allowed: str, kind: str = "run", rather: Collection[str] = frozenset()
) -> str:
    """The one of these names, task/run or run, that a user means: the run's whole name, or the only one with this end.

    Of several with this end, those in `rather` count alone, if there are any. Raises ConfigError if there is none, or
    more than one. Its message calls the run a `kind`, and says what is `allowed`.
    """
    whole = [name for name in names if text in (name, name.rpartition("/")[2])]
    ends = [name for name in names if text and name.endswith(text)]
    found = sorted(whole or [name for name in ends if name in rather] or ends)
    if len(found) > 1:
        raise ConfigError(f"{kind} {text!r} fits {len(found)} runs: {', '.join(found[:5])}{' ...' * (len(found) > 5)}")
    if not found:
        raise ConfigError(f"{kind} {text!r}: not found; allowed: {allowed}")
    return found[0]
