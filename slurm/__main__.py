"""Turn a sweep into runs, on this machine or on SLURM, and watch them.

python -m slurm submit TASK --sweep phases --seeds 0:3 --dry-run   # what would run
python -m slurm submit TASK --sweep phases --seeds 0:3             # as SLURM arrays
python -m slurm submit TASK --set preset=demo --seeds 0:3 --cluster local --jobs 2
python -m slurm status --watch
"""

import argparse
import sys
from collections.abc import Callable

from common.command_line import Parser
from common.errors import ConfigError, fail
from common.files import CheckpointError, StorageError
from common.stopping import leave_output
from slurm import commands, plan, sweeps
from slurm.mistakes import Mistakes

EXAMPLES = {
    "submit": """
examples:
  python -m slurm submit TASK --sweep backbones --seeds 0:5 --dry-run
  python -m slurm submit TASK --grid backbone=resnet18,resnet34 batch_size=32,64 --set dataset=cifar100
  python -m slurm submit TASK --sweep phases --profile mycluster --time 8:00:00 --max-parallel 4
  python -m slurm submit TASK --set preset=demo --seeds 0:3 --cluster local --jobs 2
  python -m slurm submit TASK --sweep backbones --until-decided --most 5

KEY is a key of config.json or a flag of train.py: batch_size, phases.1.rate. A comma within a value of --grid is
written \\, (in quotes). A run that is finished, queued or running is left out; the same command again continues those
that were stopped.""",
    "status": """
examples:
  python -m slurm status                                  every run, by submission
  python -m slurm status TASK --watch                     one task, refreshed until no run goes on by itself
  python -m slurm status TASK-20260131-120000             one submission
  python -m slurm status --json | jq '.[] | select(.state == "failed")'""",
    "logs": """
examples:
  python -m slurm logs e92274a4-s0              a run, by its name or the end of it
  python -m slurm logs e92274a4-s0 --follow     keep printing until it ends""",
    "cancel": """
example:
  python -m slurm cancel TASK-20260131-120000

Runs that have started save first; `resubmit` continues them.""",
    "resubmit": """
examples:
  python -m slurm resubmit TASK-20260131-120000            all that is not finished
  python -m slurm resubmit TASK-20260131-120000 --failed   those that failed, were killed or are lost

A new submission, with the code as it is now; each run continues from its last checkpoint.""",
    "prune": """
examples:
  python -m slurm prune                          what finished runs of results/runs hold and need no more
  python -m slurm prune TASK --yes               remove it, of one task
  python -m slurm prune TASK-20260131-120000     of one submission

The weights of each phase's best and last epoch stay, so predict, evaluate, explain, export and --weights work as
before.""",
}


def parser() -> Parser:
    """The parser of the command line."""
    raw = argparse.RawDescriptionHelpFormatter
    top = Parser(prog="python -m slurm", description=__doc__, formatter_class=raw)
    names = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, function: Callable[[argparse.Namespace], int], text: str) -> Parser:
        added = names.add_parser(
            name, help=text, description=text.capitalize() + ".", epilog=EXAMPLES[name], formatter_class=raw
        )
        added.set_defaults(function=function)
        return added

    submit_ = command("submit", commands.submit, "expand a sweep or a grid, check every run, and submit them")
    submit_.add_argument("task", metavar="TASK", help=f"one of {', '.join(plan.tasks())}")
    what = submit_.add_mutually_exclusive_group()
    what.add_argument("--sweep", metavar="NAME", help="a sweep of the task's sweeps.yaml")
    # extend: a flag given twice adds up
    what.add_argument(
        "--grid", nargs="+", action="extend", default=[], metavar="KEY=V1,V2", help="one run for every combination"
    )
    submit_.add_argument("--seeds", metavar="0:5", help="0:5 is 0 to 4; or 0,3,7 (default: the sweep's, else 0)")
    submit_.add_argument(
        "--until-decided",
        action="store_true",
        help="3, 5, then 10 seeds, for settings whose published numbers are still undecided; runs until then",
    )
    submit_.add_argument(
        "--most", type=int, choices=sweeps.LOOKS, help="with --until-decided: seeds of a setting at most (default 10)"
    )
    submit_.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="for every run")
    submit_.add_argument("--dry-run", action="store_true", help="print the runs, and the batch scripts; submit nothing")
    submit_.add_argument("--jobs", type=int, metavar="N", help="with --cluster local: runs at once (default 1)")
    add_cluster(submit_)

    status_ = command("status", commands.status_, "show the state of runs")
    status_.add_argument("what", nargs="?", metavar="TASK|SUBMISSION", help="default: every submission")
    status_.add_argument("--watch", action="store_true", help="refresh until no run goes on by itself")
    status_.add_argument("--json", action="store_true", help="for scripts; times in seconds")

    logs_ = command("logs", commands.logs, "print the output of a run in its last submission, over all its starts")
    logs_.add_argument("run", metavar="RUN", help="name of the run, or its end as `status` shows it")
    logs_.add_argument("--follow", action="store_true", help="keep printing until the run ends")

    cancel_ = command(
        "cancel", commands.cancel, "stop the running runs of a submission and remove the others from the queue"
    )
    cancel_.add_argument("submission", metavar="SUBMISSION", help="as `submit` and `status` print it")

    resubmit_ = command("resubmit", commands.resubmit, "submit the unfinished runs of a submission again")
    resubmit_.add_argument("submission", metavar="SUBMISSION", help="as `submit` and `status` print it")
    resubmit_.add_argument("--failed", action="store_true", help="only runs that failed, were killed or are lost")
    resubmit_.add_argument(
        "--snapshot", action="store_true", help="use the submission's copy of the code, not the current code"
    )
    resubmit_.add_argument(
        "--dry-run", action="store_true", help="print the runs, and the batch scripts; submit nothing"
    )
    resubmit_.add_argument("--jobs", type=int, metavar="N", help="with --cluster local: runs at once (default 1)")
    add_cluster(resubmit_)

    prune_ = command("prune", commands.prune_, "remove the checkpoints that finished runs need no more")
    prune_.add_argument("what", nargs="?", metavar="TASK|SUBMISSION", help="default: every run in results/runs")
    prune_.add_argument("--yes", action="store_true", help="remove; without it, only sizes are shown")
    return top


def add_cluster(command: Parser) -> None:
    """Add the flags that say where and with what resources runs are made."""
    command.add_argument("--cluster", choices=("slurm", "local"), help="default: slurm; resubmit: as before")
    group = command.add_argument_group("with --cluster slurm")
    group.add_argument(
        "--profile",
        metavar="NAME",
        help="slurm/clusters/NAME.toml, or a .toml file (default: default; resubmit: as before)",
    )
    group.add_argument("--time", help="time limit of one start: minutes, H:MM:SS, D-HH:MM:SS")
    for key in ("partition", "account", "qos", "constraint"):
        group.add_argument(f"--{key}", help="as sbatch has it")
    group.add_argument("--cpus", type=int, metavar="N", help="CPU cores on each node of a run")
    group.add_argument("--memory", metavar="32G", help="memory on each node of a run")
    group.add_argument("--gpus", type=int, metavar="N", help="GPUs per device of a run; 0: none")
    group.add_argument("--max-parallel", type=int, metavar="N", help="runs at once")


def main() -> None:
    """Run a command; every mistake is one line on stderr, with exit code 2."""
    arguments, unknown = parser().parse_known_args()
    if unknown:
        also = "; the flags of train.py go through --set KEY=VALUE" if arguments.command == "submit" else ""
        fail(f"unknown arguments: {' '.join(unknown)}{also}; see python -m slurm {arguments.command} --help")
    try:
        code = arguments.function(arguments)
        sys.stdout.flush()  # while a closed pipe is still caught
        raise SystemExit(code)
    except Mistakes as mistakes:
        print("\n".join(mistakes.lines()), file=sys.stderr)
        raise SystemExit(2) from None
    except ConfigError as error:
        fail(str(error))
    except (StorageError, CheckpointError) as error:
        fail(str(error), 1)
    except BrokenPipeError:
        leave_output()
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
