"""What the tests of pages share: Chromium, if there is one, and a reader of tags."""

import shutil
from html.parser import HTMLParser

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine; `make test-page` installs one"
)
# What is wider than the page lies in a box that scrolls by itself: `%s` says which.
OUTSIDE = """[...document.querySelectorAll('main *')].filter(e => !e.closest('%s')
    && e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.outerHTML.slice(0, 80))"""
UNNAMED = """[...document.querySelectorAll('button, input, select, img, [role=region], [role=img]')].filter(e =>
    !(e.getAttribute('aria-label') || e.alt || e.textContent.trim() || e.labels?.length)).map(e => e.outerHTML)"""
LEVELS = "[...document.querySelectorAll('h1,h2,h3')].map(h => +h.tagName[1])"


class Tags(HTMLParser):
    """Open elements, to see that each one is closed; and every address that is loaded or linked to."""

    VOID = ("meta", "link", "input", "img", "br", "line", "polyline", "rect")
    # HTML lets these go without an end tag: the next of its kind, or the end of what holds it, ends it.
    ENDED_BY = {"td": ("td", "th", "tr", "tbody"), "tr": ("tr", "tbody")}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.open, self.addresses = [], []

    def handle_starttag(self, tag, attributes):
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        self.end_before(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def end_before(self, tag):
        while self.open and tag in self.ENDED_BY.get(self.open[-1], ()):
            self.open.pop()

    def handle_startendtag(self, tag, attributes):
        self.addresses += [value for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag):
        if tag != self.open[-1]:
            self.end_before(tag)
        assert self.open.pop() == tag
