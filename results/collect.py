"""Tables over seeds, with the published numbers beside them, from finished runs.

    python results/collect.py                      # every task
    python results/collect.py TASK --keep          # one task; its runs are kept as records, for git
    python results/collect.py --strict             # exit code 1 where anything was left out or is in doubt
    python results/collect.py --compare RUN RUN    # what differs between runs, in the terminal

Reads results/runs/<task>/*/ and results/records/<task>/*.json. Writes results/tables/<task>.csv, .md and .tex,
results/figures/, the table between the marks `<!-- results -->` in tasks/<task>/README.md, the overview in
results/README.md and README.md, and the page results/index.html. The same runs give the same bytes, whether they are
read from run directories or from records. Prints a line for each setting of your own runs, or the whole table of the
tasks that are named. Runs that a table leaves out are named on stderr with the reason.
"""

import argparse
import ast
import importlib.util
import re
import shutil
import sys
import tempfile
import traceback
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository, for `common`

from common import files
from common.command_line import Parser
from common.config import REPOSITORY, Config
from common.data.listing import few
from common.errors import ConfigError, choice, command, fail
from common.files import Damaged, read_text
from common.measured import declared
from common.published import References, read_references
from common.report import Report
from common.selection import protocol
from common.stopping import leave_output
from common.words import count
from results import grids, judged, pairs, pictures, readme, records, rows, tables
from results.misnamed import misnamed
from results.task import Task

# On lines of their own: a text may speak of them.
MARKED = re.compile(r"^(<!-- results -->)$.*?^(<!-- /results -->)$", re.DOTALL | re.MULTILINE)


def load(name: str, runs: Path, root: Path, keeping: bool, complaints: list[str]) -> Task:
    """Read a task's report and runs, and keep the runs as records if asked to. Adds complaints, a line each."""
    report = load_report(root / "tasks" / name / "report.py")
    found, here = records.find(name, runs, root / "results" / "records", complaints)
    if keeping:
        records.keep(here, root / "results" / "records", complaints)
    references = read_references(root / "tasks" / name / "reference.csv")
    complaints += misnamed(name, report, references)
    current = current_protocol(root / "tasks" / name)
    said: list[str] = []
    try:
        made = task_of(name, report, found, references, current, said)
    except Exception:
        # What is of a task's own in a record is read by its report alone, which may trip over a damaged one.
        whole = [record for record in found if not trips(name, report, record, references, current, complaints)]
        if len(whole) == len(found) or not whole:
            raise
        said.clear()  # the first attempt may have complained of the same
        made = task_of(name, report, whole, references, current, said)
    complaints += said
    return made


def task_of(
    name: str,
    report: Report,
    found: Sequence[dict],
    references: References,
    current: int,
    complaints: list[str],
) -> Task:
    """What a task's report makes of these records; `current` is today's protocol. Adds complaints."""
    found = [report.renew(record) for record in found]
    by_number = defaultdict(list)
    for record in found:
        by_number[protocol(record)].append(record)
    by_protocol = [records.group(by_number[n], [], n, report.words) for n in sorted(by_number, reverse=True)]
    every = records.group(found, complaints, current, report.words)
    compared = pairs.comparisons(every, report.pairs)
    return Task(
        name,
        report,
        every,
        by_protocol,
        rows.tabulate(every, references, report, compared),
        grids.grids(grids.Source(report, every, references, complaints)),
        compared,
        judged.judge(report.claims, by_protocol, current),
        current,
    )


def trips(name: str, report: Report, record: dict, references: References, current: int, complaints: list[str]) -> bool:
    """Whether a task's report fails on this record alone, which then is a complaint."""
    try:
        task_of(name, report, [record], references, current, [])
    except Exception as error:
        complaints.append(f"damaged: {name}/{record['run']}: the task's report cannot read it: {told(error)}")
        return True
    return False


def told(error: Exception) -> str:
    """An error of a task's own code in one line: kind, text and place."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return " ".join(f"{type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno})".split())


@contextmanager
def apart(name: str, failed: dict[str, str]) -> Iterator[None]:
    """Let what is wrong with one task's files or report end that task alone; it joins `failed`."""
    try:
        yield
    except (ConfigError, Damaged) as error:
        failed[name] = str(error)
    except OSError:
        raise  # of the disk, so of all tasks
    except Exception as error:
        failed[name] = f"its report fails: {told(error)}"


def load_report(path: Path) -> Report:
    """The report of a task; an empty one if it has none."""
    if not path.is_file():
        return Report()
    spec = importlib.util.spec_from_file_location(f"tasks.{path.parent.name}.report", path)
    assert spec is not None, path
    assert spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not isinstance(getattr(module, "REPORT", None), Report):
        raise ConfigError(f"{path}: it must have REPORT = Report(...), from common.report")
    return module.REPORT


def current_protocol(folder: Path) -> int:
    """The protocol of a task, read in its code and not loaded, since a table needs nothing else of it."""
    # An editor's own files, such as Emacs' .#train.py, may be anything.
    found = {number for path in folder.glob("[!.]*.py") for number in protocols(path)}
    if len(found) > 1:
        raise ConfigError(f"{folder} has PROTOCOL = {' and '.join(map(str, sorted(found)))}; allowed: one number")
    return found.pop() if found else Config.PROTOCOL


def protocols(path: Path) -> list[int]:
    """The numbers that classes in a file give to PROTOCOL."""
    try:
        classes = [node for node in ast.walk(ast.parse(path.read_bytes(), path)) if isinstance(node, ast.ClassDef)]
        given = [node for each in classes for node in each.body if isinstance(node, ast.Assign | ast.AnnAssign)]
        return [int(ast.literal_eval(node.value)) for node in given if node.value and "PROTOCOL" in names(node)]
    except (SyntaxError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: its PROTOCOL cannot be read, which must be a number: {error}") from error


def names(node: ast.Assign | ast.AnnAssign) -> list[str]:
    """The names to which a statement gives a value."""
    return [ast.unparse(target) for target in (node.targets if isinstance(node, ast.Assign) else [node.target])]


def collect(task: Task, root: Path, complaints: list[str]) -> None:
    """Write everything of one task."""
    results = root / "results"
    if not task.rows:
        complaints.append(f"nothing to tabulate: {task.name}: no finished runs, no records, no reference.csv")
        return
    complaints += undeclared(task)
    (results / "tables").mkdir(parents=True, exist_ok=True)
    texts = {"csv": rows.csv_text(task.rows), "md": tables.markdown(task.rows), "tex": tables.latex(task.rows)}
    for kind, content in texts.items():
        files.write(results / "tables" / f"{task.name}.{kind}", content.encode())
    part = readme.text(task.rows, task.grids, pairs.for_readers(task.compared), task.claims)
    fill(root / "tasks" / task.name / "README.md", part, complaints)
    draw(task, results / "figures", complaints)


def strangers(runs: Path, known: Sequence[str]) -> list[str]:
    """A complaint if a folder of runs has other folders than those of the tasks, in which nobody looks for runs."""
    others = sorted(path.name for path in runs.glob("[!.]*") if path.is_dir() and path.name not in known)
    if not others:
        return []
    allowed = f"a folder for each task, of its name ({', '.join(known)})"
    return [f"not looked at: {few(others, 3)} in {runs}: allowed: {allowed}"]


def say(text: str) -> None:
    """Print a text; if nobody reads it, as behind `| head`, the files are written all the same."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        leave_output()


def glance(task: Task, runs: Path) -> str:
    """A line for each setting of a task that has runs in this folder, and one for what only records have."""
    here = {path.name for path in (runs / task.name).glob("*")}
    lines = []
    for group in task.runs.groups:
        if any(record["run"] in here for record in group.records):
            own = [row for row in task.rows if (row.preset, row.setting) == (group.preset, group.setting)]
            row = tables.representative(own)
            measured = f"{row.metric} {tables.with_spread(row)}" if row.mean else "diverged"
            published = f", published {row.published}: {row.verdict}" if row.published else ""
            doubts = "".join(f"; {doubt}" for doubt in rows.doubts([group]))
            lines.append(f"  {tables.about(row, (), task.report.words)}: {measured}{published}{doubts}")
    others = count(len(task.runs.groups) - len(lines), "setting")
    return "\n".join([f"{task.name}: {others} in the records alone", *lines])


def undeclared(task: Task) -> list[str]:
    """A complaint for each metric of a task's own that its report does not declare."""
    names = dict.fromkeys(name for record in task.runs.completed for name in record["metrics"].get("by_name", {}))
    unknown = [name for name in names if declared(name, task.report.metrics) is None]
    return [
        f"not declared: {task.name}: metric {name!r} is neither better nor worse, until report.py names it in `metrics`"
        for name in unknown
    ]


def draw(task: Task, folder: Path, complaints: list[str]) -> None:
    """Draw every figure that a task's report names, from the newest protocol that has what it shows."""
    for figure in task.report.figures:
        path = folder / f"{task.name}_{figure.__name__}.png"
        with tempfile.TemporaryDirectory() as aside:  # so that a figure that fails costs no older one
            drawn = Path(aside) / path.name
            for runs in (every.completed for every in task.by_protocol):
                if runs and not drawn.is_file():
                    figure(runs, drawn)
                    older = runs.groups[0].protocol < task.protocol
                    if drawn.is_file() and older:
                        pictures.add_line(drawn, f"Measured under protocol {runs.groups[0].protocol}, an older one")
            if drawn.is_file():
                folder.mkdir(exist_ok=True)
                shutil.move(drawn, path)
            elif path.is_file():
                path.unlink()
                complaints.append(f"not drawn: figures/{path.name}: it was there, and no run has what it shows now")


def summarise(tasks: Sequence[Task], root: Path, complaints: list[str]) -> None:
    """Write the overviews and the page, from today's rows of every task that has any."""
    from results import page

    if not tasks:
        return
    results = root / "results"
    overview = tables.overview({task.name: summary(task) for task in tasks})
    files.write(results / "README.md", tables.TEMPLATES.get_template("README.md").render(overview=overview).encode())
    fill(root / "README.md", overview.replace("](../", "]("), complaints)
    content = page.html(tasks, root, complaints).encode()
    if len(content) >= page.LIMIT:
        complaints.append(f"too large for git: results/index.html: {len(content):,} bytes; allowed: under 1 MiB")
    files.write(results / "index.html", content)


def summary(task: Task) -> tables.Summary:
    """What the overview says of a task."""
    best = tables.headline(task.rows, task.report.headline, task.runs)
    return tables.Summary(task.rows, best, tables.about(best, task.compared, task.report.words), task.claims)


def fill(path: Path, text: str, complaints: list[str]) -> None:
    """Put a text between the marks of a README; one that lacks them stays as it is, with a complaint."""
    if not path.is_file():
        return
    before = read_text(path)
    after, places = MARKED.subn(lambda marks: f"{marks[1]}\n\n{text}\n{marks[2]}", before)
    if not places:
        lacks = "lacks the lines <!-- results --> and <!-- /results -->, between which it goes"
        complaints.append(f"no place for the table: {path.parent.name}/{path.name} {lacks}")
    elif after != before:
        files.write(path, after.encode())


def main(argv: Sequence[str] | None = None, root: Path = REPOSITORY) -> None:
    """The command; `root` is the repository.

    Exit codes: 0; 2 for bad input; 1 for what cannot be read or written, and with --strict for any complaint.
    """
    known = sorted(path.parent.name for path in root.glob("tasks/*/train.py"))
    parser = Parser(
        prog="results/collect.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"any of {', '.join(known)} (default: all)")
    parser.add_argument("--keep", action="store_true", help="copy finished runs into results/records")
    parser.add_argument("--strict", action="store_true", help="exit code 1 if there is anything to complain of")
    parser.add_argument("--runs", type=Path, metavar="DIR", help="folder of runs (default: results/runs)")
    parser.add_argument(
        "--compare", nargs="+", metavar="RUN", help="names or folders of two runs or more; writes nothing"
    )
    arguments = parser.parse_args(argv)
    runs = arguments.runs or root / "results" / "runs"
    complaints: list[str] = []
    try:
        for task in arguments.tasks:
            choice("task", task, known)
        if arguments.runs and not runs.is_dir():
            raise ConfigError(f"folder of runs {runs} is not there")
        complaints += strangers(runs, known)
        if arguments.compare:
            from results import compare

            compare.show(compare.chosen(arguments.compare, runs, root / "results" / "records"))
            return
        wanted = list(dict.fromkeys(arguments.tasks or known))
        loaded: dict[str, Task] = {}
        failed: dict[str, str] = {}
        for name in known:
            with apart(name, failed):
                loaded[name] = load(name, runs, root, arguments.keep and name in wanted, complaints)
        for name in (name for name in wanted if name in loaded):
            with apart(name, failed):
                if arguments.keep:
                    pictures.keep(loaded[name], runs, root / "results" / "figures", complaints)
                collect(loaded[name], root, complaints)
                whole = f"# {name}\n\n{tables.markdown(loaded[name].rows)}"
                say(whole if arguments.tasks else glance(loaded[name], runs))
        if not failed:
            summarise([task for task in loaded.values() if task.rows], root, complaints)
            for kind, made in (("tables", "tables"), ("page", "index.html")):
                say(f"{kind:<12}{root / 'results' / made}")
    except (ConfigError, Damaged) as error:
        fail(str(error))
    except OSError as error:
        fail(str(error), 1)
    for complaint in complaints:
        print(complaint, file=sys.stderr, flush=True)
    for name, reason in failed.items():
        print(f"error: {name} is left out, and the overviews stay as they are: {reason}", file=sys.stderr, flush=True)
    if failed:
        raise SystemExit(2)
    if arguments.strict and complaints:
        fail(f"{count(len(complaints), 'complaint')}, and --strict", 1)


if __name__ == "__main__":
    command(main)
