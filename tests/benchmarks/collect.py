"""How long results/collect.py takes for many runs: tables, figures and page, from run directories.

    python tests/benchmarks/collect.py                   # 1,000 runs, median of 3; a minute
    python tests/benchmarks/collect.py --runs 5000 --repeats 1 --json out.json

The runs are copies of records that are in git, with other seeds, in their true proportion by preset; reading, grouping,
drawing and writing are all timed, in a process of its own each time.
"""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

import report

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import run_of_record

REPOSITORY = Path(__file__).resolve().parents[2]


def write_run(record: dict, seed: int, runs: Path) -> None:
    """A run directory that gives this record, with another seed."""
    own = {key: record[key] | {"seed": seed} for key in ("config", "metrics")}
    run_of_record.write(record | own, runs / record["task"] / f"{record['run'].rpartition('-')[0]}-s{seed}")


def seconds(count: int) -> float:
    """Of one collection of so many runs."""
    paths = sorted((REPOSITORY / "results" / "records").glob("*/*.json"))
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        shutil.copytree(REPOSITORY / "tasks", root / "tasks")
        records = [json.loads(path.read_text()) for path in paths]
        for number, record in enumerate(islice(cycle(records), count)):
            write_run(record, 1000 + number // len(records) * 10 + record["config"]["seed"], root / "results" / "runs")
        code = "import sys; from pathlib import Path; from results.collect import main; main([], Path(sys.argv[1]))"
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", code, name], cwd=REPOSITORY, check=True, capture_output=True)
        return time.perf_counter() - begin


def main() -> None:
    """Print the median."""
    parser = report.parser(__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    each = [seconds(arguments.runs) for _ in range(arguments.repeats)]
    middle = statistics.median(each)
    print(f"{arguments.runs:,} runs: {middle:.1f} s (median of {len(each)}; {min(each):.1f} to {max(each):.1f})")
    report.write(arguments.json, runs=arguments.runs, seconds=each)


if __name__ == "__main__":
    main()
