"""The page of results: what it holds, and how it behaves in a browser (skipped where there is no Chromium)."""

import json
import re
import shutil
from dataclasses import replace
from itertools import pairwise

import pytest
from browser import LEVELS, OUTSIDE, UNNAMED, Tags, needs_browser
from made_runs import PHASES, REFERENCE, SETTING, TASK, collect, edit, make_run, write_report
from PIL import Image
from scipy import stats

from common.config import REPOSITORY
from common.selection import Runs
from results import page
from results.collect import load
from results.judged import WORDS

README = """# cifar_phased: what does each phase add?

Text.

## Answer

The **last** phase adds most, see [the table](#results) and
[the code](train.py). <b>& more</b>

And this.

## Results

Not this.
"""
FIELDS = "{'preset': 'three_phase', 'dataset': 'cifar10', 'backbone': 'resnet18'}"
CONTENT = f"""
    figures=(across.curves,),
    tables=(Table('Ours and theirs', of={FIELDS}, rows={{'test': Part(metric='test accuracy (%)')}},
                  columns={{'source': Part(shows='published'), 'ours': Part()}}),),
    claims=(Claim('000', 'Accuracy rises from phase to phase', rising('head', 'last_block', 'full', of={FIELDS})),
            Claim('000', 'So it does on CIFAR-100', rising('head', 'full', of={{'dataset': 'cifar100'}}))),
    pictures=Pictures({FIELDS}, {{'confusion': 'Which class is taken for which'}}),
    words={{'rate': 'a rate of {{}}'}},
"""
GONE = "dataset=cifar10 rate=9"
PUBLISHED = (  # setting, metric, number, margin, note; ours have 61.00 +- 2.65, 1.3900 +- 0.0265 and so on, n = 3
    (SETTING, "test accuracy (%)", 61, 9, ""),
    (SETTING, "test loss", 20, 9, ""),
    (SETTING, "validation accuracy (%)", 80, 1, ""),
    (SETTING, "test macro F1 (%)", 30.5, "", ""),
    (SETTING, "full test accuracy (%)", 50, 2, ""),
    (SETTING, "test weighted F1 (%)", 5, 1, ""),
    (SETTING, "head test accuracy (%)", 1, 5, "not comparable: other data"),
    (GONE, "test loss", 1, 1, ""),
    ("dataset=cifar100 backbone=resnet18", "test loss", 1.5, 1, ""),
)


@pytest.fixture
def page_of(root):
    """The page of three completed runs and a diverged one, as text and as a path."""
    write_report(root, CONTENT)
    (root / "tasks" / TASK / "README.md").write_text(README)
    for seed in range(3):
        folder = make_run(root, seed, notes=["<b>& few</b> images"])
        (folder / "figures").mkdir()
        Image.new("RGB", (40, 30), (80 * seed, 0, 0)).save(folder / "figures" / "confusion.png")
    rows = (f"three_phase,{s},{m},{number},{margin},000,{note}\n" for s, m, number, margin, note in PUBLISHED)
    (root / "tasks" / TASK / "reference.csv").write_text(REFERENCE + "".join(rows))
    gone = make_run(root, 1, slug="three_phase-cifar10-bbbb2222", setting=GONE, rate=9)
    metrics = {"status": "diverged", "task": TASK, "seed": 1, "diverged": {"reason": "loss is nan"}}
    (gone / "metrics.json").write_text(json.dumps(metrics))  # as train.py writes it, and before the first epoch's end
    (gone / "history.csv").unlink()
    collect(root, "--keep")
    path = root / "results" / "index.html"
    return path, path.read_text()


def test_the_page_is_well_formed_and_needs_nothing_but_files_in_git(page_of):
    tags = Tags()
    tags.feed(page_of[1])
    assert tags.open == []
    files = [address for address in tags.addresses if not address.startswith(("#", "data:"))]
    assert set(files) == {
        "README.md",
        f"../tasks/{TASK}/README.md",
        f"../tasks/{TASK}/README.md#results",
        f"../tasks/{TASK}/train.py",
        f"figures/{TASK}_curves.png",
        f"figures/{TASK}/confusion.webp",
    }
    assert [name for name in files if not (page_of[0].parent / name.partition("#")[0]).exists()] == []
    assert "@import" not in page_of[1]
    assert "url(" not in page_of[1]


def test_every_id_is_there_once_and_links_within_the_page_have_an_end(page_of):
    ids = re.findall(r' id="([^"]+)"', page_of[1])
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page_of[1])) <= set(ids)


def test_the_page_has_question_answer_verdicts_figures_and_runs(page_of):
    text = re.sub(r"\s+", " ", page_of[1])
    assert "What does each phase add?" in text
    assert "The <strong>last</strong> phase adds most" in text
    assert "&lt;b&gt;&amp; more&lt;/b&gt;" in text
    assert "<p>And this.</p>" in text
    assert "Not this" not in text
    assert "Of 9 published numbers, 1 is reproduced, 1 is higher, 1 is lower," in text
    assert "3 are undecided, 1 is diverged, 1 is not comparable and 1 is not measured." in text
    assert "Of 2 claims, 1 holds and 1 is not tested." in text
    assert "<caption>Ours and theirs. Mean ± standard deviation over 3 seeds" in text
    assert "last block minus head" in text
    assert "One run: three_phase, CIFAR-10, ResNet-18, seed 0" in text
    assert "Which class is taken for which" in text
    assert "&lt;b&gt;&amp; few&lt;/b&gt; images" in text
    assert "<b>& few" not in text
    statuses = [cells.split("<td>")[5] for cells in text.split("<tr data-run=")[1:]]
    assert sorted(statuses) == ["completed"] * 3 + ["diverged"]
    assert "secret-host" not in text
    assert "/home/me" not in text


def test_a_task_without_answer_claims_or_published_numbers_shows_none(root):
    make_run(root, 0)
    collect(root)
    text = (root / "results" / "index.html").read_text()
    assert not any(part in text for part in ('id="scoreboard"', 'id="claims"', 'class="answer"', "One run:"))
    assert "All metrics" in text


def test_the_same_runs_give_the_same_page(page_of, root):
    collect(root)
    assert page_of[0].read_text() == page_of[1]


def test_records_alone_give_the_same_page(page_of, root):
    for run in (root / "results" / "runs" / TASK).iterdir():
        shutil.rmtree(run)
    collect(root)
    assert page_of[0].read_text() == page_of[1]


def test_a_page_that_is_too_large_for_git_is_complained_of(root, capsys, monkeypatch):
    make_run(root, 0)
    monkeypatch.setattr(page, "LIMIT", 1000)
    collect(root)
    assert capsys.readouterr().err.startswith("too large for git: results/index.html: ")


def curves(root):
    text = (root / "results" / "index.html").read_text()
    return json.loads(re.search(r'id="curves">(.*?)</script>', text, re.DOTALL)[1])


def test_curves_have_three_digits_and_a_place_for_each_kind(root):
    folder = make_run(root, 0)
    (folder / "history.csv").write_text(
        "phase,epoch,loss,val_accuracy,accuracy\nhead,1,1.23456,0.5,\nlast_block,1,2,0.123456,1\nfull,1,12345.6,0.7,0\n"
    )
    collect(root)
    assert curves(root) == [[[1.23, 2, 12300], None, [None, 100, 0], [50, 12.3, 70]]]


def test_with_many_runs_those_of_older_protocols_have_no_curves_and_no_metrics(root, monkeypatch):
    make_run(root, 0)
    edit(make_run(root, 1, slug="three_phase-cifar10-bbbb1111") / "config.json", protocol=2)
    (root / "tasks" / TASK / "train.py").write_text("class Config:\n    PROTOCOL = 2\n")
    label = "</b> dataset=cifar10 backbone=resnet18 protocol=1"
    collect(root)
    text = (root / "results" / "index.html").read_text()
    assert None not in curves(root)
    assert label in text
    monkeypatch.setattr(page, "MOST_RUNS", 1)
    collect(root)
    text = (root / "results" / "index.html").read_text()
    assert [one is None for one in curves(root)].count(True) == 1
    assert "those of older protocols have no curves here" in text
    assert label not in text
    assert f"of today's protocol; the others are in tables/{TASK}.csv" in text


def test_the_page_has_room_for_twice_the_runs_that_git_has():
    """Twice the settings, that is, each with its rows."""

    def twice(task):
        names = "abcdefghijklmnop"
        groups = [
            replace(
                g, setting=f"{g.setting} more={names}", records=tuple(r | {"run": names + r["run"]} for r in g.records)
            )
            for g in task.runs.groups
        ]
        rows = [replace(row, setting=f"{row.setting} more={names}") for row in task.rows]
        return replace(task, runs=Runs((*task.runs.groups, *groups)), rows=[*task.rows, *rows])

    names = sorted(path.parent.name for path in REPOSITORY.glob("tasks/*/train.py"))
    tasks = [load(name, REPOSITORY / "nothing", REPOSITORY, False, []) for name in names]
    text = page.html([twice(task) for task in tasks], REPOSITORY, [])
    assert sum(map(len, (task.runs for task in tasks))) > 100
    assert len(text.encode()) < 2**20


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
@pytest.mark.parametrize("word", WORDS)
def test_every_verdict_on_a_claim_fits_into_its_column(shown, word):
    page = shown()
    page.evaluate("word => document.querySelector('.claims .verdict').lastChild.textContent = word", word)
    verdict, text = (
        page.locator(".claims li").first.locator(f"> {which}") for which in (".verdict", "span:last-child")
    )
    assert verdict.bounding_box()["x"] + verdict.evaluate("e => e.scrollWidth") <= text.bounding_box()["x"]


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
    page.get_by_label("Words in any column").fill("a rate of 9")  # as figures call it
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


def places(shown, metric):
    """Mean and ends of the interval of a published number as they are drawn, in margins from -7 to 7."""
    row = shown.locator("#scoreboard tr.number", has=shown.get_by_role("rowheader", name=metric, exact=True)).first
    return row.evaluate("""row => {
      const box = row.querySelector('svg').getBoundingClientRect(), at = x => 14 * (x - box.left) / box.width - 7;
      const mark = row.querySelector('use[href^="#mark"]').getBoundingClientRect();
      const line = row.querySelector('.reach')?.getBoundingClientRect();
      return [at((mark.left + mark.right) / 2), ...(line ? [at(line.left), at(line.right)] : [])];
    }""")


@needs_browser
@pytest.mark.parametrize("width", [380, 1400])
def test_a_published_number_stands_where_the_difference_is(shown, width):
    shown = shown(width)
    for metric, mean, published, margin in (("test accuracy (%)", 61, 61, 9), ("full test accuracy (%)", 61, 50, 2)):
        low, high = stats.t.interval(0.95, 2, mean - published, 2.6458 * (4 / 3) ** 0.5)
        expected = [(mean - published) / margin, max(-7, low / margin), min(7, high / margin)]
        assert places(shown, metric) == pytest.approx(expected, abs=0.05)
    assert places(shown, "validation accuracy (%)")[0] == pytest.approx(-6.5, abs=0.05)  # -9 margins: beside the edge
    row = shown.locator("#scoreboard tr.number", has_text="validation accuracy (%)")
    assert row.locator("svg text").text_content() == "−9.0"


@needs_browser
def test_the_scoreboard_is_a_table_for_those_who_do_not_see_it(shown):
    for width in (380, 1400):
        table = shown(width).get_by_role("table", name="Published numbers and ours")
        row = table.get_by_role("row", name="full test accuracy (%)")
        assert row.get_by_role("img", name="+5.5 margins, 95 % interval −1.1 to +12.1").count() == 1
        assert [cell.inner_text().strip() for cell in row.get_by_role("cell").all()[1:]] == [
            "61.00 ± 2.65 (n=3)",
            "50 (margin 2)",
            "undecided",
        ]
        for name, told in (
            ("test macro F1 (%)", "no margin was written down"),
            ("head test accuracy (%)", "not comparable: other data"),
        ):
            assert told in table.get_by_role("row", name=name).inner_text()
            assert table.get_by_role("row", name=name).get_by_role("img").count() == 0
        assert "every run diverged" in table.inner_text()
        table.get_by_text("1 not measured", exact=False).last.click()
        assert "three_phase, CIFAR-100, ResNet-18: test loss 1.5" in table.inner_text()


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_verdicts_differ_in_colour_and_shape_and_can_be_read(shown, scheme):
    shown = shown(1400, scheme)
    found = shown.locator(".legend .verdict").evaluate_all("""all => all.map(one => [getComputedStyle(one).color,
        one.querySelector('use').getAttribute('href')])""")
    assert len({shape for _, shape in found}) == len(found) == 7
    assert len({colour for colour, _ in found}) == 5  # what was not judged has the colour of what is undecided
    back = luminance(shown.evaluate("getComputedStyle(document.body).backgroundColor"))
    for colour, _ in found:
        light, dark = sorted((luminance(colour), back), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5


def luminance(colour):
    """Relative luminance of `rgb(r, g, b)`, as WCAG 2 defines it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@needs_browser
def test_everything_that_acts_has_a_name(shown):
    page = shown()
    assert page.evaluate(UNNAMED) == []
    assert page.evaluate("document.documentElement.lang") == "en"
    levels = page.evaluate(LEVELS)
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
