"""The page of results: what it holds, and how it behaves in a browser (skipped where there is no Chromium)."""

import json
import re
from itertools import pairwise

import pytest
from browser import LEVELS, OUTSIDE, UNNAMED, Tags, needs_browser
from made_runs import PHASES, REFERENCE, SETTING, TASK, collect, make_run


@pytest.fixture
def page_of(root):
    """The page of three completed runs and a diverged one, as text and as a path."""
    (root / "tasks" / TASK / "README.md").write_text("# cifar_phased: what does each phase add?\n")
    for seed in range(3):
        make_run(root, seed, notes=["<b>& few</b> images"])
    rows = (f"three_phase,{SETTING},{m},{p},9,000,\n" for m, p in (("test accuracy (%)", 61), ("test loss", 20)))
    (root / "tasks" / TASK / "reference.csv").write_text(REFERENCE + "".join(rows))
    gone = make_run(root, 1, slug="three_phase-cifar10-bbbb2222", setting="dataset=cifar10 rate=9")
    metrics = {"status": "diverged", "task": TASK, "seed": 1, "diverged": {"reason": "loss is nan"}}
    (gone / "metrics.json").write_text(json.dumps(metrics))  # as train.py writes it, and before the first epoch's end
    (gone / "history.csv").unlink()
    collect(root)
    path = root / "results" / "index.html"
    return path, path.read_text()


def test_the_page_is_well_formed_and_needs_nothing_beside_it(page_of):
    tags = Tags()
    tags.feed(page_of[1])
    assert tags.open == []
    assert tags.addresses
    assert all(address.startswith(("#", "data:")) for address in tags.addresses)
    assert "@import" not in page_of[1]
    assert "url(" not in page_of[1]


def test_the_page_has_question_verdicts_figures_and_runs(page_of):
    text = re.sub(r"\s+", " ", page_of[1])
    assert "What does each phase add?" in text
    assert 'class="verdict reproduced"' in text
    assert "&lt;b&gt;&amp; few&lt;/b&gt; images" in text
    assert "<b>& few" not in text
    assert text.count("data:image/png;base64,") == 1
    assert text.count('data-status="completed"') == 3
    assert text.count('data-status="diverged"') == 1
    assert "secret-host" not in text
    assert "/home/me" not in text


def test_the_same_runs_give_the_same_page(page_of, root):
    collect(root)
    assert page_of[0].read_text() == page_of[1]


@pytest.fixture
def shown(visit, page_of):
    """A function that opens the page at a width."""
    return lambda *view: visit(page_of[0], *view)


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [380, 1400])
def test_nothing_overflows(shown, width, scheme):
    page = shown(width, scheme)
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(OUTSIDE % ".scroll") == []
    assert all(page.evaluate("[...document.images].map(i => i.naturalWidth > 0)"))


@needs_browser
def test_a_title_sorts_its_column_both_ways(shown):
    page = shown()
    seeds = page.locator("#list tbody tr:visible td:nth-child(4)")
    head = page.get_by_role("button", name="Seed", exact=True)
    head.click()
    assert seeds.all_inner_texts() == ["0", "1", "1", "2"]
    assert page.locator("#list th[aria-sort=ascending]").inner_text().startswith("Seed")
    head.click()
    assert seeds.all_inner_texts() == ["2", "1", "1", "0"]
    # By the keyboard too; what was not measured comes last, whichever way.
    page.get_by_role("button", name="Test accuracy (%)", exact=True).focus()
    for order in (1, -1):
        page.keyboard.press("Enter")
        *found, last = page.locator("#list tbody tr td:nth-child(6)").all_inner_texts()
        assert found == sorted(found, key=float)[::order]
        assert last == ""


@needs_browser
def test_words_and_choices_filter_the_runs(shown):
    page = shown()
    rows = page.locator("#list tbody tr:visible")
    assert rows.count() == 4
    page.get_by_label("Words in any column").fill("RATE=9 cifar10")
    assert rows.count() == 1
    assert page.get_by_role("status").inner_text() == "1 of 4 runs"
    page.get_by_label("Words in any column").fill("")
    page.get_by_label("Status").select_option("completed")
    assert rows.count() == 3
    page.get_by_role("combobox", name="Task").select_option(TASK)
    assert rows.count() == 3


@needs_browser
def test_a_small_curve_opens_a_large_one_by_the_keyboard(shown):
    page = shown()
    page.locator(".spark").first.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    assert dialog.is_visible()
    points = dialog.locator("polyline").first.get_attribute("points").split()
    assert len(points) == len(PHASES)
    page.keyboard.press("Escape")
    assert not dialog.is_visible()


@needs_browser
def test_everything_that_acts_has_a_name(shown):
    page = shown()
    assert page.evaluate(UNNAMED) == []
    assert page.evaluate("document.documentElement.lang") == "en"
    levels = page.evaluate(LEVELS)
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
