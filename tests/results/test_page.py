"""The page of results: what it holds, and how it behaves in a browser (skipped where there is no Chromium)."""

import json
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from made_runs import PHASES, REFERENCE, SETTING, TASK, collect, make_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine; `make test-page` installs one"
)


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


class Tags(HTMLParser):
    """Open elements, to see that each one is closed; and every address that is loaded or linked to."""

    VOID = ("meta", "link", "input", "img", "br", "line", "polyline")

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.seen = [], [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.addresses += [value for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


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


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as engine:
        flags = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
        opened = engine.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield opened
        opened.close()


@pytest.fixture
def shown(browser, page_of):
    """A function that opens the page at a width; at the end, no console message and no request may have come."""
    said, asked = [], []

    def show(width=1400, scheme="light"):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(page_of[0].as_uri())
        return page

    yield show
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [380, 1400])
def test_nothing_overflows(shown, width, scheme):
    page = shown(width, scheme)
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # What is wider than the page lies in a box that scrolls by itself.
    outside = """[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll')
        && e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.outerHTML.slice(0, 80))"""
    assert page.evaluate(outside) == []
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
    unnamed = """[...document.querySelectorAll('button, input, select, img, [role=region]')].filter(e =>
        !(e.getAttribute('aria-label') || e.alt || e.textContent.trim() || e.labels?.length)).map(e => e.outerHTML)"""
    assert page.evaluate(unnamed) == []
    assert page.evaluate("document.documentElement.lang") == "en"
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
