"""What an inspection of a data set tells: as JSON, in a terminal, and as two figures."""

from collections.abc import Iterator
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from common.data import near_copies, pipeline, tfrecords
from common.data.inspection import PUBLISHED, Inspection
from common.data.listing import few, printable
from common.data.splits import SPLITS
from common.plots.data_sets import FEW_CLASSES, Pair, contact_sheet, copy_pairs

LISTED_CLASSES = 30  # in the terminal; JSON has all
PER_CLASS = 10  # images on the contact sheet
PER_CLASS_OF_MANY = 6
SHOWN_PAIRS = 24  # of the most alike, and as many of the least alike
TRAINING = (0, 1)  # train and validation: both are the training images that were published


def facts(found: Inspection) -> dict[str, Any]:
    """All that was found, as JSON has it."""
    data, copies = found.data, found.copies
    return {
        "dataset": data.name,
        "classes": list(data.class_names),
        "counts": {name: counts.tolist() for name, counts in data.counts().items()},
        "sizes": [{"width": w, "height": h, "images": n} for (w, h), n in by_frequency(found)],
        "unreadable": {shown(name): reason for name, reason in data.unreadable.items()},
        "unused": {reason: list(map(printable, paths)) for reason, paths in found.unused.items()},
        "notes": list(data.notes),
        "exact_copies": "the same file content" if data.train.in_files else "the same pixels, as a run reads them",
        "near_copies": near_copies.CRITERION,
        "deviations_from_random_pairs": round(copies.deviations, 1),
        "copies": [
            {
                "split": SPLITS[split],
                "in": SPLITS[other],
                "images": int(np.count_nonzero(copies.splits == split)),
                "exact": int(copies.exact(split, other).sum()),
                "near_or_exact": int(copies.near_or_exact(split, other).sum()) if copies.tells_near else None,
            }
            for other, split in combinations_with_replacement(range(len(SPLITS)), 2)
        ],
        "test_copies": of_test(found),
        "near_pairs": [
            {"first": where(found, a), "second": where(found, b), "correlation": round(float(r), 3)}
            for (a, b), r in zip(copies.near.indices, copies.near.correlations, strict=True)
        ],
    }


def by_frequency(found: Inspection) -> list[tuple[tuple[int, int], int]]:
    """Width and height and how many images have them, the most frequent first."""
    return sorted(found.sizes.items(), key=lambda item: (-item[1], item[0]))


def of_test(found: Inspection) -> dict[str, Any]:
    """How many test images have a copy among the training images, or else among the test images, and what is published.

    Near and exact copies; exact ones alone if near ones cannot be recognised.
    """
    copies, test = found.copies, SPLITS.index("test")
    having = copies.near_or_exact if copies.tells_near else copies.exact
    training = np.logical_or(*(having(test, other) for other in TRAINING))
    published = PUBLISHED.get(found.data.name)
    return {
        "images": len(training),
        "in_training": int(training.sum()),
        "in_test_only": int((having(test, test) & ~training).sum()),
        "published": vars(published) if published else None,
    }


def place(found: Inspection, index: int) -> tuple[int, int]:
    """The split of one of all images, and its index there."""
    split = int(found.copies.splits[index])
    return split, int(index - np.searchsorted(found.copies.splits, split))


def where(found: Inspection, index: int) -> dict[str, Any]:
    """Split, class, and the file or the number among the images that the split is made of."""
    split, inside = place(found, index)
    own = found.data.splits[split].take(np.array([inside]))
    number = int(own.places[0])
    image = shown(found.data.files[number]) if found.data.files else number
    return {"split": SPLITS[split], "class": found.data.class_names[own.labels[0]], "image": image}


def shown(name: str) -> str:
    """The name of a file, or of a part of one, as JSON and a figure have it."""
    return printable(tfrecords.shown(name))


def show(found: Inspection, said: dict[str, Any], console: Console) -> None:
    """Print the tables and lines for a reader."""
    total = {name: sum(counts) for name, counts in said["counts"].items()}
    summary = Table("split", Column("images", justify="right"), Column("images of a class", justify="right"))
    for name, counts in said["counts"].items():
        summary.add_row(name, f"{total[name]:,}", span(min(counts), max(counts)))
    console.print(f"[bold]{escape(printable(said['dataset']))}[/]: {len(said['classes']):,} classes", highlight=False)
    console.print(summary)
    console.print(classes(said))
    console.print(copies_table(said))
    for line in lines(found, said):
        console.print(line, highlight=False, markup=False)


def span(least: int, greatest: int) -> str:
    """A range of numbers, or the one number that it is."""
    return f"{least:,}" if least == greatest else f"{least:,} to {greatest:,}"


def classes(said: dict[str, Any]) -> Table:
    """Images of each class by split."""
    table = Table("class", *(Column(name, justify="right") for name in said["counts"]))
    for number, name in enumerate(said["classes"][:LISTED_CLASSES]):
        table.add_row(escape(name), *(f"{counts[number]:,}" for counts in said["counts"].values()))
    if (more := len(said["classes"]) - LISTED_CLASSES) > 0:
        table.caption = f"and {more:,} more classes; --json lists them all"
    return table


def copies_table(said: dict[str, Any]) -> Table:
    """How many images of each split have copies, and in which."""
    right = [Column(name, justify="right") for name in ("images", "exact copy", "near or exact copy")]
    table = Table("images of", "with a copy in", *right, title="Copies", title_justify="left")
    for row in said["copies"]:
        near = "not counted" if row["near_or_exact"] is None else shared(row["near_or_exact"], row["images"])
        there = f"{row['in']} itself" if row["in"] == row["split"] else row["in"]
        table.add_row(row["split"], there, f"{row['images']:,}", shared(row["exact"], row["images"]), near)
    return table


def shared(count: int, total: int) -> str:
    """A count, and its share of a total."""
    return f"{count:,} ({count / total:.2%})" if count else "0"


def lines(found: Inspection, said: dict[str, Any]) -> Iterator[str]:
    """What stands beside the tables, each a line."""
    sizes = said["sizes"]
    if len(sizes) == 1:
        yield f"sizes: all {sizes[0]['width']}×{sizes[0]['height']} pixels"
    elif sizes:
        images = sum(size["images"] for size in sizes)
        widths, heights = ([size[side] for size in sizes] for side in ("width", "height"))
        yield (
            f"sizes: {len(sizes):,} different, {span(min(widths), max(widths))} pixels wide and "
            f"{span(min(heights), max(heights))} high; most frequent {sizes[0]['width']}×{sizes[0]['height']} "
            f"({sizes[0]['images'] / images:.0%})"
        )
    yield f"unreadable: {counted(list(map(tfrecords.shown, found.data.unreadable)))}"
    for reason, paths in found.unused.items():
        yield f"not used, {reason}: {counted(paths)}"
    yield from (f"note: {note}" for note in said["notes"] if not note.startswith("not used, "))
    yield f"exact copies: {said['exact_copies']}"
    yield f"near copies: {said['near_copies']}"
    if not found.copies.tells_near:
        yield (
            f"near copies are not counted: random pairs of different classes come too close to that, which is "
            f"{found.copies.deviations:.1f} of their standard deviations away ({near_copies.DEVIATIONS} are needed)"
        )
    yield from test_lines(said["test_copies"], found.copies.tells_near)


def counted(paths: list[str]) -> str:
    """How many paths, and the first few of them."""
    return f"{len(paths):,} ({few(paths)})" if paths else "none"


def test_lines(test: dict[str, Any], tells_near: bool) -> Iterator[str]:
    """The test images that have copies, and what is published of them."""
    kind = "a near or exact copy" if tells_near else "an exact copy"
    total = test["images"]
    yield (
        f"test images with {kind} in train or validation: {shared(test['in_training'], total)}; "
        f"in test alone: {shared(test['in_test_only'], total)}; "
        f"together: {shared(test['in_training'] + test['in_test_only'], total)}"
    )
    if published := test["published"]:
        yield (
            f"published for 10,000 test images, judged by eye: {published['in_train']} have a copy in train, "
            f"{published['in_test']} more in test, together {published['share']} ({published['source']})"
        )


def draw(found: Inspection, folder: Path, seed: int) -> list[Path]:
    """Draw `contact_sheet.png`, and `copies.png` if there are copies across splits; returns their paths."""
    drawn = [draw_sheet(found, folder / "contact_sheet.png", seed)]
    return drawn + [path for path in [draw_pairs(found, folder / "copies.png")] if path]


def title_of(found: Inspection) -> str:
    """A data set's name in a figure, where two dollar signs would begin mathematics."""
    return printable(found.data.name).replace("$", r"\$")


def draw_sheet(found: Inspection, path: Path, seed: int) -> Path:
    """Draw some training images of each class, drawn by the seed."""
    train, names = found.data.train, found.data.class_names
    most = PER_CLASS if len(names) <= FEW_CLASSES else PER_CLASS_OF_MANY
    rng = np.random.default_rng(seed)
    own = [np.flatnonzero(train.labels == label) for label in range(len(names))]
    chosen = [np.sort(rng.choice(places, min(most, len(places)), replace=False)) for places in own]
    images = np.split(pipeline.pictures(train, np.concatenate(chosen)), np.cumsum([len(c) for c in chosen])[:-1])
    captions = [f"{name} ({len(places):,})" for name, places in zip(names, own, strict=True)]
    return contact_sheet(
        images, captions, f"{title_of(found)}: training images of each class, drawn by seed {seed} (of how many)", path
    )


def draw_pairs(found: Inspection, path: Path) -> Path | None:
    """Draw copies across splits: the exact, the most alike, and the least alike that still count; None if none."""
    pairs = [(index, first, None) for first, index in exact_across(found)]
    near = found.copies.near
    across = found.copies.splits[near.indices[:, 0]] != found.copies.splits[near.indices[:, 1]]
    pairs += [(b, a, r) for (a, b), r in zip(near.indices[across], near.correlations[across], strict=True)]
    if not pairs:
        path.unlink(missing_ok=True)  # of an earlier inspection
        return None
    shown = pairs if len(pairs) <= 2 * SHOWN_PAIRS else pairs[:SHOWN_PAIRS] + pairs[-SHOWN_PAIRS:]
    title = f"{title_of(found)}: {len(pairs):,} pairs of copies across splits"
    if len(shown) < len(pairs):
        title += f"; the {SHOWN_PAIRS} most alike, then the {SHOWN_PAIRS} least alike that count"
    return copy_pairs([pair(found, *each) for each in shown], f"{title} (in colour: of two classes)", path)


def exact_across(found: Inspection) -> Iterator[tuple[int, int]]:
    """The first image of each group of exact copies, with the first of each later split."""
    copies = found.copies
    firsts: dict[tuple[int, int], int] = {}
    for index, key in enumerate(zip(copies.groups.tolist(), copies.splits.tolist(), strict=True)):
        firsts.setdefault(key, index)
    earliest: dict[int, int] = {}
    for (group, _), index in firsts.items():
        if (first := earliest.setdefault(group, index)) != index:
            yield first, index


def pair(found: Inspection, one: int, other: int, correlation: float | None) -> Pair:
    """Two images as they are drawn: the one of the later split first; exact copies have no correlation."""
    said = [where(found, index) for index in (one, other)]
    images = []
    for index in (one, other):
        split, inside = place(found, index)
        images.append(pipeline.pictures(found.data.splits[split], np.array([inside]))[0])
    names = [f"{each['split']} {Path(str(each['image'])).name}: {each['class']}" for each in said]
    both = "exact copy" if correlation is None else f"correlation {correlation:.2f}"
    return Pair((images[0], images[1]), (names[0], names[1]), both, said[0]["class"] != said[1]["class"])
