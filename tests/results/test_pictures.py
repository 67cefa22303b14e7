"""Figures of one run that git keeps."""

import shutil

import numpy as np
import pytest
from made_runs import SETTING, TASK, collect, edit, make_run, write_report
from PIL import Image

from common.config import REPOSITORY
from results import pictures

FIELDS = "{'preset': 'three_phase', 'dataset': 'cifar10', 'backbone': 'resnet18'}"


@pytest.fixture
def named(root):
    """Two figures are named by the report."""
    write_report(root, f"pictures=Pictures({FIELDS}, {{'one': 'The first', 'two': 'The second'}})")


def noise(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)


def make(root, seed, *, names=("one", "two"), size=20, **more):
    folder = make_run(root, seed, **more)
    (folder / "figures").mkdir()
    for name in names:
        Image.fromarray(noise(size, seed)).save(folder / "figures" / f"{name}.png")
    return folder


def kept(root):
    folder = root / "results" / "figures" / TASK
    return {path.stem: path for path in folder.iterdir()} if folder.is_dir() else {}


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_they_are_those_of_the_lowest_seed_that_is_as_the_report_says(root, named):
    for seed in (2, 1):
        folder = make(root, seed, names=("one", "two", "faces"))
    make(root, 0, slug="three_phase-cifar10-bbbb2222", setting=f"{SETTING} rate=9", rate=9)
    edit(make(root, 0) / "environment.json", dirty=True)  # of code that no one can look up
    collect(root)
    assert kept(root) == {}
    collect(root, "--keep")
    found = kept(root)
    assert found.keys() == {"one", "two", "run"}
    assert found["run"].read_text() == f"{folder.name}\n"
    assert (pixels(found["one"]) == noise(20, 1)).all()  # seed 1, and nothing is lost


@pytest.mark.parametrize("how", ["begun again", "by other code"])
def test_a_folder_that_does_not_hold_the_run_of_the_record_takes_nothing_away(root, named, how):
    folder = make(root, 1)
    collect(root, "--keep")
    before = {path: path.read_bytes() for path in kept(root).values()}
    if how == "begun again":
        (folder / "metrics.json").unlink()
    else:
        edit(folder / "environment.json", dirty=True)
        edit(folder / "metrics.json", test={"accuracy": 0.1, "n": 400})
    for path in (folder / "figures").iterdir():
        Image.fromarray(noise(20, 9)).save(path) if how == "by other code" else path.unlink()
    collect(root, "--keep")
    assert {path: path.read_bytes() for path in kept(root).values()} == before


def test_a_run_that_diverged_has_none_to_keep(root, named):
    make(root, 1)
    edit(make_run(root, 0) / "metrics.json", status="diverged")
    collect(root, "--keep")
    assert kept(root).keys() == {"one", "two", "run"}


def test_they_stay_until_they_are_kept_again(root, named):
    make(root, 0)
    collect(root, "--keep")
    before = {name: path.read_bytes() for name, path in kept(root).items()}
    Image.fromarray(noise(30)).save(root / "results/runs" / TASK / "three_phase-cifar10-aaaa1111-s0/figures/one.png")
    collect(root)
    assert {name: path.read_bytes() for name, path in kept(root).items()} == before
    write_report(root, f"pictures=Pictures({FIELDS}, {{'one': 'The first'}})")
    collect(root, "--keep")
    assert kept(root).keys() == {"one", "run"}
    assert (pixels(kept(root)["one"]) == noise(30)).all()


def test_the_smaller_of_png_and_webp_is_kept(root, named, monkeypatch):
    drawn = min((REPOSITORY / "results" / "figures").glob("*.png"), key=lambda path: path.stat().st_size)
    shutil.copy(drawn, make(root, 0) / "figures" / "one.png")
    collect(root, "--keep")
    assert kept(root)["one"].suffix == ".webp"
    assert (pixels(kept(root)["one"]) == pixels(drawn)).all()
    monkeypatch.setattr(pictures, "webp", lambda path, lossless: bytes(1_000_000))
    collect(root, "--keep")
    assert kept(root)["one"].suffix == ".png"
    assert "one.png" in (root / "results" / "index.html").read_text()


def test_a_large_one_loses_something_and_a_very_large_one_is_refused(root, named, capsys):
    figures = make(root, 0, size=400) / "figures"
    Image.fromarray(noise(1200)).save(figures / "two.png")
    collect(root, "--keep")
    assert kept(root).keys() == {"one", "run"}
    assert (figures / "one.png").stat().st_size > pictures.LARGEST >= kept(root)["one"].stat().st_size
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"not kept: {TASK}/two.png: ")
    assert line.endswith(" bytes; allowed: 300,000 for a picture, 8,000,000 for all of them")


def test_all_of_them_are_limited_together(root, named, capsys, monkeypatch):
    make(root, 0)
    other = root / "results" / "figures" / "another" / "large.webp"
    other.parent.mkdir(parents=True)
    other.write_bytes(bytes(5000))
    monkeypatch.setattr(pictures, "MOST", 5000 + 1.5 * 3 * 20 * 20)  # noise does not become smaller
    collect(root, "--keep")
    assert kept(root).keys() == {"one", "run"}
    assert "not kept: " in capsys.readouterr().err


def test_a_figure_that_the_run_lacks_is_complained_of(root, named, capsys):
    folder = make(root, 0, names=("one",))
    collect(root, "--keep")
    assert capsys.readouterr().err == f"not kept: {TASK}/{folder.name}: it has no figures/two.png\n"


def test_without_a_folder_nothing_changes(root, named, capsys):
    make(root, 0)
    collect(root, "--keep")
    before = kept(root)
    (root / "results" / "runs").rename(root / "elsewhere")
    collect(root, "--keep")
    assert kept(root) == before
    assert capsys.readouterr().err == ""
