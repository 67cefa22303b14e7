"""A run's own page: what it holds, against NumPy, and how it behaves in a browser."""

import base64
import dataclasses
import functools
import io
import json
import re
import shutil
import time
from itertools import pairwise

import kill_and_resume
import numpy as np
import pytest
from browser import LEVELS, OUTSIDE, UNNAMED, Tags, needs_browser
from PIL import Image
from small_training import train

from common import command, drawing, files, metrics, run_page, runs
from common.config import Config
from common.data import pipeline, sources, splits
from common.devices import Devices
from common.objective import CLASSIFICATION, Objective
from common.result import Predictions, Result
from common.run_page import confusions
from common.stopping import Interrupted

pytestmark = pytest.mark.usefixtures("float32_afterwards")


@pytest.fixture(scope="module")
def data():
    return sources.load(Config(dataset="digits", limit_train=300, limit_test=200))


def finish(trainer):
    """What a task does after training."""
    result = trainer.evaluate()
    drawing.classifier(trainer.run, trainer.data, result)
    trainer.run.finish(result.metrics)
    return result


@pytest.fixture(scope="module")
def images(data):
    """The test images, int64 (n, 8, 8)."""
    return pipeline.pictures(data.test, np.arange(len(data.test))).astype(int)[..., 0]


@pytest.fixture(scope="module")
def trainer(tmp_path_factory, data):
    """Of a run of two phases."""
    return train(tmp_path_factory.mktemp("page"), data)


@pytest.fixture(scope="module")
def finished(trainer):
    """The run, and its result."""
    return trainer.run, finish(trainer)


def copied(finished, folder, data):
    """The finished run in another folder, as it is before its end."""
    run, result = finished
    shutil.copytree(run.folder, folder)
    copy = runs.Run(folder, run.task, run.config)
    for path in (copy.files.report_file, copy.files.metrics_file):
        path.unlink()
    copy.write_page = functools.partial(run_page.write, copy, data, result)
    return copy


@pytest.fixture(scope="module")
def page(finished):
    return finished[0].files.report_file.read_text()


def opened_by(page):
    """What the page opens its cells with."""
    return json.loads(re.search(r'<script type="application/json" id="opened">(.*?)</script>', page)[1])


def most_confident(run, true, predicted, count):
    """The test images of a cell, from predictions.npz."""
    with np.load(run.files.predictions_file) as saved:
        labels, probabilities = saved["test_labels"], saved["test_probabilities"]
    own = np.flatnonzero((labels == true) & (probabilities.argmax(axis=1) == predicted))
    return own[np.argsort(-probabilities[own].max(axis=1), kind="stable")][:count].tolist()


def nearest(pixels, images):
    """The place of the image that these pixels, a thumbnail of 48 x 48, show."""
    small = pixels.reshape(8, 6, 8, 6).mean(axis=(1, 3))
    return int(np.abs(images - small).mean(axis=(1, 2)).argmin())


def remade(finished, data, **changes):
    """The page of the finished run with another result."""
    run, result = finished
    result = dataclasses.replace(result, **changes)
    return run_page.html(run, data, result, result.metrics)


def test_it_is_well_formed_small_and_needs_nothing_beside_it(page):
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert {address.partition(":")[0] for address in tags.addresses if not address.startswith(("#", "figures/"))} == {
        "data",
        "https",  # the paper on calibration, a link
    }
    assert [source for source in re.findall(r'src="([^"]*)', page) if not source.startswith("data:")] == []
    assert len(page.encode()) < 1_000_000


def test_it_says_what_was_run_and_how_well(finished, page, data):
    run, result = finished
    text = re.sub(r"<[^>]+>|\s+", " ", page)
    commit = run.files.environment()["commit"]
    assert commit in text
    for name in (run.folder.name, *data.notes, *(f">{name}<" for name in data.class_names)):
        assert name in page
    test = result.metrics["test"]
    assert re.search(
        rf">test</th><td class=\"number\">200</td>\s*<td class=\"number\">{100 * test['accuracy']:.2f}<", page
    )
    for phase, measured in result.metrics["phases"].items():
        row = page.partition(f'<th scope="row">{phase}</th>')[2].partition("</tr>")[0]
        assert f"{100 * measured['validation']['accuracy']:.2f}" in row
    for scores in test["per_class"]:
        assert f'>{100 * scores["f1"]:.2f}</td><td class="number">{scores["support"]}<' in page
    figures = {path.stem for path in run.figures.glob("*.png")}
    assert {"learning_curves", "confusion"} < figures
    for stem in figures:
        assert (f'href="figures/{stem}.png"' in page) == (stem != "confusion")
    assert page.count("data:image/png") == len(figures) - 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("size", "side", "step"), [(8, 48, 48), (20, 40, 48), (28, 28, 32), (48, 48, 48), (96, 48, 48)]
)
def test_thumbnails_of_any_size(size, side, step, channels):
    images = np.random.default_rng(0).integers(0, 256, (300, size, size, channels), dtype=np.uint8)
    images = images // 8 + np.arange(size, dtype=np.uint8)[:, None, None]  # lines, the same for all, and some noise
    small = confusions.thumbnails(splits.whole(images, np.zeros(300), size), np.arange(300)[::-1])
    assert small.shape == (300, step, step, channels)
    if size > 48:
        expected = images.reshape(300, 48, 2, 48, 2, channels).mean(axis=(2, 4))
        assert np.abs(small[::-1].astype(float) - expected).mean() < 8
    else:
        np.testing.assert_array_equal(small[::-1, :side, :side], images.repeat(side // size, 1).repeat(side // size, 2))


def test_the_matrix_counts_as_numpy_does(finished, page):
    rows = re.findall(r'<tr><th scope="row" title="\d">.*?</tr>', page)
    counts = [[int(count or 0) for count in re.findall(r"<td(?: class=\"\w+\")?>(\d*)</td>", row)] for row in rows]
    with np.load(finished[0].files.predictions_file) as saved:
        labels, predicted = saved["test_labels"], saved["test_probabilities"].argmax(axis=1)
    expected = np.zeros((10, 10), int)
    np.add.at(expected, (labels, predicted), 1)
    assert counts == expected.tolist()


def test_each_cell_has_its_most_confident_images(finished, page, images):
    run, result = finished
    opened = opened_by(page)
    assert (opened["step"], opened["side"]) == (48, 48)
    for true, own in enumerate(opened["classes"]):
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(own["sheet"].partition(",")[2]))))
        filled = np.flatnonzero(result.confusion["test"][true])
        assert [int(predicted) for predicted in own["cells"]] == filled.tolist()
        for predicted, (first, count) in own["cells"].items():
            shown = own["images"][first : first + count]
            assert shown == most_confident(run, true, int(predicted), 8)
            for place, image in zip(range(first, first + count), shown, strict=True):
                top, left = 48 * (place // opened["columns"]), 48 * (place % opened["columns"])
                assert nearest(pixels[top : top + 48, left : left + 48], images) == image


def test_the_most_confident_mistakes_come_first(finished, page, images):
    with np.load(finished[0].files.predictions_file) as saved:
        labels, probabilities = saved["test_labels"], saved["test_probabilities"]
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    expected = wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")][:24]
    found = re.findall(r'<li><img src="data:image/jpeg;base64,([^"]*)" alt="Test image (\d+)">', page)
    assert [int(index) for _, index in found] == expected.tolist()
    assert len(found) > 2
    for content, index in found:
        assert nearest(np.asarray(Image.open(io.BytesIO(base64.b64decode(content)))), images) == int(index)


def test_fewer_thumbnails_if_they_would_not_fit(finished, page, data, monkeypatch):
    whole = sum(len(own["sheet"]) for own in opened_by(page)["classes"])
    monkeypatch.setattr(confusions, "MOST_BYTES", whole // 2)
    less = remade(finished, data)
    counts = [count for own in opened_by(less)["classes"] for _, count in own["cells"].values()]
    most = max(counts)
    assert most in (4, 2, 1)
    assert f"{most} at most (and not 8" in less
    monkeypatch.setattr(confusions, "MOST_BYTES", 1000)
    none = remade(finished, data)
    assert "The cells have no thumbnails" in none
    assert 'id="opened"' not in none


def test_figures_are_linked_if_they_would_not_fit(finished, page, data, monkeypatch):
    monkeypatch.setattr(run_page, "MOST_BYTES", len(page) - 1)
    linked = remade(finished, data)
    assert linked.count("data:image/png") == 1  # the learning curves
    assert '<img src="figures/predictions.png"' in linked
    assert "larger than" in linked
    assert "larger than" not in page


def test_too_many_classes_leave_the_figure(finished, data, monkeypatch):
    monkeypatch.setattr(confusions, "MOST_CLASSES", 9)
    without = remade(finished, data)
    assert 'id="matrix"' not in without
    assert 'href="figures/confusion.png"' in without
    assert "9 classes at most; these are 10" in without


def test_scores_that_are_no_probabilities_are_called_that(finished, page, data):
    said = "does not train scores to be probabilities"
    assert said not in page
    assert said in remade(finished, data, are_probabilities=False)


def test_names_are_text(finished, data):
    names = ("</script><b>&", *data.class_names[1:])
    evil = remade(finished, dataclasses.replace(data, class_names=names))
    assert "</script><b>&" not in evil
    assert opened_by(evil)["names"][0] == names[0]


def test_what_is_no_classifier_has_curves_and_figures(finished, data):
    brief = {"epochs": 1, "best_epoch": 1, "seconds": 1.0, "images_per_second": 9.0, "test": {"n": 200, "loss": 0.25}}
    measured = {"test": brief["test"], "reported": "last", "phases": {"train": brief}, "by_name": {"a <metric>": 3.5}}
    plain = remade(finished, data, metrics=measured, predictions={}, confusion={})
    assert 'id="matrix"' not in plain
    assert "Calibration" not in plain
    assert 'a &lt;metric&gt;</th><td class="number">3.5<' in plain
    assert 'href="figures/confusion.png"' in plain
    tags = Tags()
    tags.feed(plain)
    assert tags.open == []


def test_stopped_and_resumed_it_ends_the_same(tmp_path, page, data):
    with pytest.raises(Interrupted):
        train(tmp_path, data, stop_after="full")
    trainer = train(tmp_path, data)
    finish(trainer)
    again = trainer.run.files.report_file.read_text()
    assert kill_and_resume.page_without_times(again) == kill_and_resume.page_without_times(page)
    assert 0 < len(page) - len(kill_and_resume.page_without_times(page)) < len(page) / 100


def test_a_page_that_cannot_be_written_leaves_the_run_unfinished(tmp_path, finished, data):
    run = copied(finished, tmp_path / "run", data)
    run.files.report_file.mkdir()
    with pytest.raises(files.StorageError, match=r"report\.html"):
        run.finish(finished[1].metrics)
    assert not run.files.is_finished
    run.files.report_file.rmdir()
    run.finish(finished[1].metrics)
    assert f"page        {run.files.report_file}" in command.summary(run.folder, run.files.metrics())


def test_the_primary_process_alone_makes_it(trainer, finished, monkeypatch):
    monkeypatch.setattr(trainer.run, "write_page", None)
    with monkeypatch.context() as another:
        another.setattr(Devices, "is_primary", False)
        trainer.evaluate()
        assert trainer.run.write_page is None
    trainer.evaluate()
    assert trainer.run.write_page is not None


def test_the_objective_says_what_its_scores_are(trainer, finished, monkeypatch):
    assert finished[1].are_probabilities
    monkeypatch.setattr(trainer, "objective", Objective(CLASSIFICATION.loss, probabilities=False))
    assert not trainer.evaluate().are_probabilities


@pytest.fixture(scope="module")
def large(tmp_path_factory, finished, data):
    """The page of 10,000 images of 100 classes, 48 pixels, one in four right, made beside the finished run's files."""
    draw = np.random.default_rng(0)
    names = tuple(f"class {number}" for number in range(100))
    coarse = draw.integers(0, 256, (10_000, 6, 6, 3), dtype=np.uint8)
    smooth = np.stack([np.asarray(Image.fromarray(image).resize((48, 48))) for image in coarse])
    labels = np.arange(10_000) % 100
    split = splits.whole(smooth, labels, 48)
    scores = draw.normal(size=(10_000, 100)).astype(np.float32)
    scores[np.arange(10_000), labels] += np.where(draw.random(10_000) < 0.25, 6, 0)
    powers = np.exp(scores)
    test = Predictions(labels, powers / powers.sum(axis=1, keepdims=True))
    measured = metrics.evaluate(labels, test.probabilities, names) | {"loss": 1.0}
    confusion = {"test": np.array(measured.pop("confusion"))}
    result = finished[1]
    run = copied(finished, tmp_path_factory.mktemp("large") / "run", data)
    own = {**result.metrics, "test": measured, "validation": measured}
    result = Result(own, result.rows, {"test": test, "validation": test}, confusion)
    made = splits.Dataset("made", names, split, split, split)
    began = time.process_time()
    run_page.write(run, made, result, own)
    return run, time.process_time() - began


def test_a_hundred_classes_are_small_and_soon_made(large):
    run, seconds = large
    page = run.files.report_file.read_text()
    assert len(page.encode()) < 5_000_000
    assert seconds < 10  # of processor time; 2 on an idle core
    assert page.count('<th scope="row" title="class') == 100
    assert re.search(r"\d at most \(and not 8", page)


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [380, 1400])
def test_nothing_overflows(visit, finished, width, scheme):
    page = visit(finished[0].files.report_file, width, scheme)
    page.locator("summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(OUTSIDE % ".scroll, figure") == []


@needs_browser
def test_everything_that_acts_has_a_name(visit, finished):
    page = visit(finished[0].files.report_file)
    page.locator("#matrix td[tabindex]").first.click()
    assert page.evaluate(UNNAMED) == []
    levels = page.evaluate(LEVELS)
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


@needs_browser
def test_a_cell_shows_its_images(visit, finished, images):
    run, result = finished
    page = visit(run.files.report_file)
    true, predicted = (int(place) for place in np.argwhere(result.confusion["test"] > 8)[3])
    page.locator("#matrix tbody tr").nth(true).locator("td").nth(predicted).click()
    page.add_style_tag(
        content="#cell-images { position: fixed; inset: 0; gap: 16px; } #cell-images li { height: 90px; }"
    )
    dialog = page.get_by_role("dialog")
    assert f"{result.confusion['test'][true, predicted]} test images, the 8 most confident" in dialog.inner_text()
    tiles = dialog.get_by_role("img").all()
    shown = [int(tile.get_attribute("aria-label").removeprefix("Test image ")) for tile in tiles]
    assert shown == most_confident(run, true, predicted, 8)
    for tile, image in zip(tiles, shown, strict=True):  # as the browser paints it
        pixels = np.asarray(Image.open(io.BytesIO(tile.screenshot())).convert("L"))
        assert pixels.shape == (48, 48)
        assert nearest(pixels, images) == image


@needs_browser
def test_cells_are_reached_and_opened_by_the_keyboard(visit, finished):
    run, result = finished
    confusion = result.confusion["test"]
    page = visit(run.files.report_file)
    assert page.locator("#matrix [tabindex='0']").count() == 1
    filled = np.argwhere(confusion)
    page.locator("#matrix [tabindex='0']").focus()
    where = "[document.activeElement.parentElement.rowIndex - 1, document.activeElement.cellIndex - 1]"
    assert page.evaluate(where) == filled[0].tolist()
    page.keyboard.press("End")
    row, column = page.evaluate(where)
    assert column == np.flatnonzero(confusion[row]).max()
    page.keyboard.press("ArrowRight")  # no further one
    assert page.evaluate(where) == [row, column]
    page.keyboard.press("ArrowDown")
    below = np.flatnonzero(confusion[row + 1 :, column])[0] + row + 1
    assert page.evaluate(where) == [below, column]
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    images = most_confident(run, below, column, 8)
    assert dialog.get_by_role("img").count() == len(images)
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert page.evaluate(where) == [below, column]  # the focus is back


@needs_browser
def test_a_title_sorts_the_classes(visit, finished):
    page = visit(finished[0].files.report_file)
    found = page.locator("#per-class tbody td:nth-child(4)")
    page.get_by_role("button", name="F1 (%)", exact=True).focus()
    for order in (1, -1):
        page.keyboard.press("Enter")
        values = found.all_inner_texts()
        assert values == sorted(values, key=float)[::order]
    assert page.locator("#per-class th[aria-sort=descending]").inner_text().startswith("F1")


@needs_browser
def test_a_hundred_classes_open_too(visit, large):
    page = visit(large[0].files.report_file, 380)
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    cell = page.locator("#matrix tbody tr").nth(50).locator("td[tabindex]").first
    cell.focus()
    page.keyboard.press("Enter")
    assert page.get_by_role("dialog").get_by_role("img").count() >= 1
