"""A private SLURM cluster on this machine, for as long as one command runs.

    python tests/slurm/cluster.py run -- python -m pytest tests/slurm/test_cluster.py
    python tests/slurm/cluster.py run -- bash        # sinfo, sbatch, squeue ... speak to it

It takes Debian's slurm-wlm and munge, installing them where they are missing (as root, with apt-get), and runs as root.
Configuration, keys, sockets, logs and state lie in a temporary folder, ports are free ones: a SLURM or munge that runs
here already is not touched. Nothing needs systemd or control groups. Whatever was started is stopped at the end, also
after a failure, Ctrl-C or SIGTERM; the exit code is the command's, or 2 where the cluster cannot be had.
"""

import argparse
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

PACKAGES = ("slurm-wlm", "munge")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel", "munged")
SECONDS_TO_START = 60
SECONDS_TO_STOP = 20
# The nodes advertise more than the machine has, so that small jobs run side by side on any machine.
CPUS = 4
MEMORY_MB = 16_000

# Waits are cut as far as a busy machine allows: cred_expire is how long a requeued job has to wait (120 s by default),
# but also how long its start may take. `preempting` shares the nodes of `main` and takes them from its jobs.
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=15
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=1
MaxArraySize={max_array}
KillWait=20
OverTimeLimit=0
MinJobAge=300
MessageTimeout=20
SlurmdTimeout=300
{nodes}
PartitionName=main Nodes=ALL Default=YES PriorityTier=1 MaxTime=UNLIMITED State=UP
PartitionName=preempting Nodes=ALL PriorityTier=2 PreemptMode=OFF MaxTime=UNLIMITED State=UP
"""
# Names that resolve on any machine, as those of a real cluster do: both are the loopback device. `--constraint node2`
# chooses one.
NODE = (
    "NodeName=127.0.0.{number} NodeHostname={host} NodeAddr=127.0.0.{number} Port={port} "
    "CPUs={cpus} RealMemory={memory} Feature=node{number} State=UNKNOWN"
)


class Unavailable(Exception):
    """The cluster cannot be had here; its text is the one line that the user reads."""


def install() -> None:
    """Install the packages where their programs are missing."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if os.geteuid() != 0:
        what = f"to install {' and '.join(PACKAGES)}" if missing else "to start SLURM's daemons"
        raise Unavailable(f"test-slurm needs root {what}")
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise Unavailable(f"{', '.join(missing)} not found, and no apt-get to install {' and '.join(PACKAGES)} with")
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (("update",), ("install", "-y", "--no-install-recommends", *PACKAGES)):
        done = subprocess.run(("apt-get", "-q", *command), env=quiet, stdout=sys.stderr, check=False)
        if done.returncode != 0:
            raise Unavailable(f"`apt-get {' '.join(command)}` failed with exit code {done.returncode}")


@dataclass
class Cluster:
    """The daemons, and the folder in which everything of theirs lies."""

    folder: Path
    nodes: int = 2
    max_array: int = 1001
    daemons: list[subprocess.Popen] = field(default_factory=list, init=False)
    is_up: bool = field(default=False, init=False)

    @property
    def environment(self) -> dict[str, str]:
        """What makes SLURM's commands speak to this cluster, and what tells the tests that it is ours."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf"), "PRIVATE_CLUSTER": str(self.folder)}

    def start(self) -> None:
        """Start the daemons, and wait until the nodes are idle."""
        self.folder.chmod(0o711)  # munged refuses a socket that not everybody can reach
        for name in ("state", *(f"spool-{node}" for node in self.node_names())):
            (self.folder / name).mkdir()
        (self.folder / "slurm.conf").write_text(self.configuration())
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(128))
        self.daemon("munged", "--foreground", *self.munge_paths())
        self.wait_for("munge's socket", (self.folder / "munge.socket").exists)
        self.daemon("slurmctld", "-D")
        for node in self.node_names():
            self.daemon("slurmd", "-D", "-N", node)
        self.wait_for("idle nodes", self.is_idle)
        self.is_up = True

    def node_names(self) -> list[str]:
        """Names of the nodes; each is a slurmd with a port of its own on this machine."""
        return [f"127.0.0.{number}" for number in range(1, self.nodes + 1)]

    def munge_paths(self) -> list[str]:
        """Flags that keep munged apart from one of the system's."""
        names = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        return [f"--{flag}={self.folder}/munge.{name}" for flag, name in names.items()]

    def configuration(self) -> str:
        """The text of slurm.conf."""
        host = socket.gethostname().partition(".")[0]
        ports = free_ports(1 + self.nodes)
        nodes = [
            NODE.format(number=number, host=host, port=port, cpus=CPUS, memory=MEMORY_MB)
            for number, port in enumerate(ports[1:], start=1)
        ]
        return CONFIGURATION.format(
            host=host, ports=ports, folder=self.folder, max_array=self.max_array, nodes="\n".join(nodes)
        )

    def daemon(self, *command: str) -> None:
        """Start one daemon; what it says before it has its log goes to <program>.out."""
        output = self.folder / f"{command[0]}.out"
        with output.open("a") as file:
            self.daemons.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    env=os.environ | self.environment,
                    start_new_session=True,  # a Ctrl-C in the terminal is for the command, then for us
                )
            )

    def wait_for(self, what: str, there: Callable[[], bool]) -> None:
        """Wait until `there()`; raises Unavailable when a daemon has ended or time is up."""
        end = time.monotonic() + SECONDS_TO_START
        while not there():
            dead = [daemon.args[0] for daemon in self.daemons if daemon.poll() is not None]
            if dead or time.monotonic() > end:
                why = f"{dead[0]} ended" if dead else f"none after {SECONDS_TO_START} s"
                raise Unavailable(f"the cluster did not start: no {what}, {why}\n{self.last_words()}")
            time.sleep(0.1)

    def is_idle(self) -> bool:
        """Whether all nodes answer and wait for work."""
        states = self.ask("sinfo", "--noheader", "--Node", "--partition=main", "--format=%T").split()
        return len(states) == self.nodes and set(states) == {"idle"}

    def ask(self, *command: str) -> str:
        """Output of one of SLURM's commands; empty where it fails."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = subprocess.run(
                command, env=os.environ | self.environment, capture_output=True, text=True, timeout=10, check=False
            )
            return done.stdout
        return ""

    def last_words(self, lines: int = 30) -> str:
        """The ends of all logs."""
        texts = []
        for path in sorted([*self.folder.glob("*.log"), *self.folder.glob("*.out")]):
            last = path.read_text(errors="replace").splitlines()[-lines:]
            texts += [f"--- {path.name}", *last] if last else []
        return "\n".join(texts)

    def stop(self) -> None:
        """End jobs and daemons, and whatever outlives them."""
        if self.is_up:
            # Jobs that are told to stop have KillWait seconds for it; these need none.
            for how in (["--state=PENDING"], ["--signal=KILL", "--full"], []):
                self.ask("scancel", "--user=root", *how)
            self.until(lambda: not self.ask("squeue", "--noheader"))
        for daemon in reversed(self.daemons):
            daemon.terminate()
        self.until(lambda: all(daemon.poll() is not None for daemon in self.daemons))
        for daemon in self.daemons:
            daemon.kill()
            daemon.wait()
        for number in self.leftovers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)

    def until(self, done: Callable[[], bool]) -> None:
        """Wait a bounded time for something that should come by itself."""
        end = time.monotonic() + SECONDS_TO_STOP
        while not done() and time.monotonic() < end:
            time.sleep(0.1)

    def leftovers(self) -> list[int]:
        """Processes of this cluster's jobs: they carry the name of its configuration."""
        mark = f"SLURM_CONF={self.folder / 'slurm.conf'}".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mark in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
        return [number for number in found if number != os.getpid()]


def free_ports(number: int) -> list[int]:
    """Ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def started(**options) -> Iterator[Cluster]:
    """A cluster, stopped at the end; its folder goes with it."""
    with tempfile.TemporaryDirectory(prefix="private-slurm-", ignore_cleanup_errors=True) as name:
        cluster = Cluster(Path(name), **options)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


def run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run the command; Ctrl-C reaches it by itself, SIGTERM is passed on."""
    process = subprocess.Popen(command, env=os.environ | environment)
    try:
        code = process.wait()
    except KeyboardInterrupt:  # the command has got it too
        code = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    return code if code >= 0 else 128 - code


def stop_on_sigterm(number: int, frame: object) -> NoReturn:
    """End as after any other fault, so that the cluster is stopped."""
    raise SystemExit(128 + number)


def main() -> None:
    """Read the command line, and run the command beside a cluster."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["run"])
    parser.add_argument("--nodes", type=int, default=2, help="how many nodes, all on this machine (default 2)")
    parser.add_argument("--max-array", type=int, default=1001, help="SLURM's MaxArraySize (default 1001)")
    parser.add_argument("command", nargs="+", help="after --")
    arguments = parser.parse_args()
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    signal.signal(signal.SIGTERM, stop_on_sigterm)
    try:
        install()
        with started(nodes=arguments.nodes, max_array=arguments.max_array) as cluster:
            code = run(arguments.command, cluster.environment)
            if code != 0:
                print(f"exit code {code}; the daemons' last words:\n{cluster.last_words()}", file=sys.stderr)
        raise SystemExit(code)
    except Unavailable as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
