"""Figures of one run a task, which git keeps: from the run's folder into results/figures/<task>/, and from there."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from common import files
from common.run_folder import RunFolder
from results.records import Unusable, read_run
from results.task import Task

LARGEST = 300_000  # bytes of a picture
MOST = 8_000_000  # bytes of all of them
LINE = 24  # pixels
RUN = "run.txt"  # the name of the run that they are of


@dataclass(frozen=True)
class Picture:
    """A figure on the page."""

    address: str
    """Relative to the page."""
    shows: str
    width: int
    height: int


def there(figures: Path, named: Mapping[str, str], complaints: list[str]) -> list[Picture]:
    """Those figures, by name in results/figures with what they show, that are there. Adds complaints."""
    found = []
    for name, shows in named.items():
        try:
            with Image.open(figures / name) as image:
                found.append(Picture(f"{figures.name}/{name}", shows, *image.size))
        except FileNotFoundError:
            pass
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            complaints.append(f"damaged: figures/{name}: no picture ({type(error).__name__}); the page goes without it")
    return found


def add_line(path: Path, text: str) -> None:
    """Write a line below a figure."""
    with Image.open(path) as image:
        longer = Image.new("RGB", (image.width, image.height + LINE), "white")
        longer.paste(image.convert("RGB"))
    ImageDraw.Draw(longer).text((LINE // 2, longer.height - LINE), text, "black", ImageFont.load_default(LINE * 2 // 3))
    longer.save(path)


def keep(task: Task, runs: Path, figures: Path, complaints: list[str]) -> None:
    """Copy the figures that a task's report names, of the run with the lowest seed that fits and has a folder.

    Raises StorageError.
    """
    run = run_to_show(task, runs / task.name)
    if run is None:
        return
    folder = figures / task.name
    folder.mkdir(parents=True, exist_ok=True)
    others = sum(path.stat().st_size for path in figures.glob("*/*") if path.parent != folder)
    contents = {RUN: f"{run.path.name}\n".encode(), **chosen(task, run, MOST - others, complaints)}
    for path in folder.iterdir():
        if path.name not in contents:
            path.unlink()
    for name, content in contents.items():
        files.write(folder / name, content)


def chosen(task: Task, run: RunFolder, room: int, complaints: list[str]) -> dict[str, bytes]:
    """The figures of a run that a report names, by the name of their file, as far as there is room for them."""
    found: dict[str, bytes] = {}
    for name in shown(task):
        source = run.figures / f"{name}.png"
        if not source.is_file():
            complaints.append(f"not kept: {task.name}/{run.path.name}: it has no figures/{source.name}")
            continue
        kind, content = smallest(source)
        if len(content) > min(LARGEST, room - sum(map(len, found.values()))):
            allowed = f"{LARGEST:,} for a picture, {MOST:,} for all of them"
            complaints.append(f"not kept: {task.name}/{source.name}: {len(content):,} bytes; allowed: {allowed}")
            continue
        found[f"{name}.{kind}"] = content
    return found


def shown(task: Task) -> Mapping[str, str]:
    """Names and captions of the figures that a task's report names."""
    return task.report.pictures.shown if task.report.pictures else {}


def run_to_show(task: Task, folder: Path) -> RunFolder | None:
    """The run whose figures are kept: of the newest protocol that has one in its folder, that of the lowest seed."""
    wanted = task.report.pictures
    if wanted is None:
        return None
    for runs in task.by_protocol:
        for record in sorted(runs.completed.chosen(wanted.of), key=lambda record: record["config"]["seed"]):
            if is_of(folder / record["run"], record):
                return RunFolder(folder / record["run"])
    return None


def is_of(folder: Path, record: Mapping) -> bool:
    """Whether a run directory holds the run of a record: it may have been begun again, by other code."""
    try:
        return folder.is_dir() and read_run(folder)["metrics"] == record["metrics"]
    except Unusable:
        return False


def smallest(path: Path) -> tuple[str, bytes]:
    """Kind and content of a picture: as it is or, if smaller, as WebP; that loses nothing unless it must."""
    kept = min(("png", path.read_bytes()), ("webp", webp(path, lossless=True)), key=lambda option: len(option[1]))
    return kept if len(kept[1]) <= LARGEST else ("webp", webp(path, lossless=False))


def webp(path: Path, lossless: bool) -> bytes:
    """A picture as WebP."""
    content = io.BytesIO()
    with Image.open(path) as image:
        image.save(content, "WEBP", lossless=lossless, method=6)
    return content.getvalue()


def kept(task: Task, figures: Path, complaints: list[str]) -> list[Picture]:
    """The pictures of a task that git keeps, in the order of its report. Adds complaints."""
    named = {f"{task.name}/{name}.{kind}": text for name, text in shown(task).items() for kind in ("png", "webp")}
    return there(figures, named, complaints)


def run_of(task: Task, figures: Path) -> str:
    """The run that the pictures are of, in words."""
    path = figures / task.name / RUN
    name = path.read_text(errors="replace").strip() if path.is_file() else ""
    for group in task.runs.groups:
        for record in group.records:
            if record["run"] == name:
                return ", ".join([group.preset, *group.said(), f"seed {record['config']['seed']}"])
    return name
