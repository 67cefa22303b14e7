"""Fixtures that several tests share."""

import atexit
import contextlib
import os
import shutil
import socket
import tempfile
from pathlib import Path

import pytest

# Before TensorFlow: as it is imported it closes what absl logs to, which then is pytest's capture of this process.
import submitit  # noqa: F401
from browser import CHROMIUM

import common  # noqa: F401  its settings of TensorFlow, before a test imports that
from common.backbones import BACKBONES
from common.plots import base

# On JAX the same small network is compiled in test after test, and in processes that tests start: here it is only once.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


def pytest_collection_modifyitems(items):
    """Mark the tests that train a demo, which `make test-fast` leaves out, and those that `make test-page` runs."""
    for item in items:
        if "demos" in item.fixturenames:
            item.add_marker(pytest.mark.trains)
        if "browser" in item.fixturenames:
            item.add_marker(pytest.mark.browses)


@pytest.fixture(autouse=True, scope="session")
def no_waiting_for_the_disk():
    """What tests write need not outlive a crash of the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved; their files stay empty, since drawing takes most of the time."""
    figures = []
    monkeypatch.setattr(base, "png", lambda figure: figures.append(figure) or b"")
    return figures


@pytest.fixture
def tiny_backbone(monkeypatch):
    """The name of a backbone of five convolutions."""
    monkeypatch.setitem(BACKBONES, "tiny", "tiny_backbone:TINY")
    return "tiny"


@pytest.fixture
def as_nobody(tmp_path):
    """Does what follows as a user to whom modes of files apply, and who may look into `tmp_path`."""

    @contextlib.contextmanager
    def nobody():
        for folder in [tmp_path, *tmp_path.parents][:3]:  # those that pytest has made
            folder.chmod(0o755)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(user)

    return nobody


@pytest.fixture
def unwritable_folder():
    """Opens a folder, with these files, that this process may read but not write, whoever runs it."""

    @contextlib.contextmanager
    def opened(**contents):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for stem, content in contents.items():
                (folder / f"{stem}.json").write_bytes(content)
            folder.chmod(0o555)
            user = os.geteuid()
            if user == 0:  # to whom modes mean nothing
                os.seteuid(65534)
            try:
                yield folder
            finally:
                os.seteuid(user)
                folder.chmod(0o755)

    return opened


@pytest.fixture
def no_network(monkeypatch):
    """Record every attempt to reach a host, and let none through."""
    attempts = []

    def refuse(*arguments, **_):
        attempts.append(arguments)
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return attempts


@pytest.fixture(scope="module")
def browser():
    """Chromium, for tests that `browser.needs_browser` marks."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as engine:
        flags = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
        opened = engine.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser):
    """A function that opens a file at a width; at the end, no console message and no request may have come."""
    said, asked = [], []

    def show(path, width=1400, scheme="light"):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        return page

    yield show
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
