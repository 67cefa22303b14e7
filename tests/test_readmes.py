"""What the documents promise: links and anchors resolve, commands are understood, targets of make exist."""

import re
import shlex
from pathlib import Path

import pytest

import common.data.__main__ as data
import slurm.__main__ as launcher
from slurm import sweeps

REPOSITORY = Path(__file__).resolve().parents[1]
# Not documents of ours: packages, what runs have left, and templates, whose links hold where they are filled in.
ELSEWHERE = {".venv", "runs", "submissions", "templates"}
DOCUMENTS = [
    path for path in sorted(REPOSITORY.glob("**/*.md")) if not ELSEWHERE & {*path.relative_to(REPOSITORY).parts}
]
PLACEHOLDERS = {"RUN", "SUBMISSION", "COMMAND"}
README_WORDS = 900

every_document = pytest.mark.parametrize(
    "path", DOCUMENTS, ids=[str(path.relative_to(REPOSITORY)) for path in DOCUMENTS]
)


def commands(path, start):
    """The words after `start` of every command in a document that has it, in code blocks and in code of a line."""
    text = path.read_text()
    found = re.findall(rf"{start} ([^\n`]*)", text)
    return [shlex.split(command, comments=True) for command in found]


def anchors(text):
    """The anchors that GitHub gives the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_document
def test_no_link_is_dead(path):
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()) if "://" not in link]
    for link in links:
        place, _, anchor = link.partition("#")
        target = (path.parent / place) if place else path
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text()), link


@every_document
def test_commands_of_the_launcher_are_understood(path):
    for words in commands(path, "python -m slurm"):
        if words and words[0] not in PLACEHOLDERS:
            arguments = launcher.parser().parse_args([word for word in words if word != "..."])
            if arguments.command == "submit" and arguments.sweep:
                sweeps.load(arguments.task, arguments.sweep)


@every_document
def test_commands_about_data_are_understood(path):
    for words in commands(path, "python -m common.data"):
        data.parser().parse_args(words)


@every_document
def test_targets_of_make_exist(path):
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in re.findall(r"(?:`|^ {4})make ([\w./-]+)", path.read_text(), re.MULTILINE):
        assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), target


@every_document
def test_scripts_exist(path):
    for script in re.findall(r"python ((?:results|tests|tasks)/[\w/]+\.py)", path.read_text()):
        assert (REPOSITORY / script).is_file(), script


def test_the_readme_is_short():
    text = (REPOSITORY / "README.md").read_text()
    prose = re.sub(r"^<!-- results -->$.*?^<!-- /results -->$", "", text, flags=re.DOTALL | re.MULTILINE)
    words = len(prose.split())
    assert words <= README_WORDS, (
        f"{words} words beside the results; shorten README.md, or move some to another document"
    )
