"""What all figures share: the palette, an empty figure, names of classes, and how a figure is saved."""

import io
import re
import unicodedata
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

from common import files

mpl.rcdefaults()  # whatever a matplotlibrc of the user's says: the same figures on every machine

# The palette of Okabe and Ito, made to be told apart with any kind of colour vision.
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE = "#56B4E9", "#CC79A7"
SPLIT_COLOURS = {"train": ORANGE, "validation": BLUE, "test": VERMILION}
TEST_REPORTED = "test, at the epoch that is reported"
NAMED_CLASSES = 200  # most that a figure shows one by one: with thousands of rows it would not fit into memory
LEGEND_BELOW: dict[str, Any] = {"loc": "outside lower center", "frameon": False, "fontsize": 9}


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as a PNG, creating its folder, and return the path. Same figure, same bytes.

    Raises StorageError where it cannot be written.
    """
    choose_fonts(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, png(figure))
    return path


def png(figure: Figure) -> bytes:
    """Draw a figure as the content of a PNG file: once, whereas `savefig` draws it twice, first to lay it out."""
    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(content, metadata={"Software": None})
    return content.getvalue()


def empty_figure(width: float, height: float) -> Figure:
    """Return an empty figure, in inches. It belongs to no window and no global state."""
    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def short(name: str, limit: int = 24) -> str:
    """Cut the middle out of a long name, whose ends tell it from others, and spell out what no font has.

    Matplotlib does not read dollar signs in it as mathematics.
    """
    signs = [sign if has_glyph(sign) else f"\\u{ord(sign):04x}" for sign in name]
    if sum(map(len, signs)) > limit:
        while sum(map(len, signs)) >= limit:
            del signs[len(signs) // 2]
        signs.insert((len(signs) + 1) // 2, "…")
    return "".join(signs).replace("$", r"\$")


SPELT_OUT = re.compile(r"\\u[0-9a-f]{4,6}")
NOTE = r"\uXXXX: the code point of a sign that no installed font has"


def room(names: Iterable[str], font_size: float) -> float:
    """Inches that the longest of these names takes, as `short` gives them, with a little to spare."""
    ems = [sum(1.0 if unicodedata.east_asian_width(sign) in "WF" else 0.62 for sign in name) for name in names]
    return max(ems, default=0.0) * font_size / 72


def has_glyph(sign: str) -> bool:
    """Whether a sign can be drawn."""
    return sign in glyphs(default_font()) or font_with(sign) is not None


def choose_fonts(figure: Figure) -> None:
    """Give every text with signs that matplotlib's default font lacks a font that has them; say what is spelt out."""
    texts = figure.findobj(Text)
    known = glyphs(default_font())
    for text in texts:
        lacking = {sign for sign in text.get_text() if not sign.isspace()} - known
        others = dict.fromkeys(filter(None, map(font_with, sorted(lacking))))
        if others:
            text.set_fontfamily([*FontProperties().get_family(), *others])
    if any(SPELT_OUT.search(text.get_text()) for text in texts):
        figure.set_figheight(figure.get_figheight() + 0.3)  # room for the note
        figure.suptitle("\n".join(filter(None, [figure.get_suptitle(), NOTE])))


def default_font() -> str:
    """The file of matplotlib's default font."""
    return findfont(FontProperties())


@cache
def glyphs(font: str) -> frozenset[str]:
    """The signs that a font's file has."""
    return frozenset(map(chr, FT2Font(font).get_charmap()))


@cache
def font_with(sign: str) -> str | None:
    """The family of an installed font that has a sign."""
    plain = [font for font in fontManager.ttflist if font.style == "normal" and font.weight in (400, "normal")]
    # The "last resort" that comes with matplotlib has a box for every sign.
    fonts = sorted({(font.name, font.fname) for font in plain if "Last Resort" not in font.name})
    return next((name for name, file in fonts if sign in glyphs(file)), None)
