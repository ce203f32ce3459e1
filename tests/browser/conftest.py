"""A real server and a real Chromium."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Error, Locator, Page, TimeoutError, expect, sync_playwright

import influence_core as ic

ROOT = Path(__file__).parents[2]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
READY = "[data-testid=stApp][data-test-script-state=notRunning]"
PICTURE = "img[src*='/api/picture']"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@dataclass
class Server:
    """A started app."""

    url: str
    process: subprocess.Popen[bytes]
    started: float


@pytest.fixture(scope="session", autouse=True)
def store_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the servers store is kept apart from what their user keeps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INFLUENCE_STORE", str(tmp_path_factory.mktemp("store")))
        yield


@pytest.fixture(scope="session")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    running: list[Server] = []

    def start(*arguments: str, script: Path = ROOT / "app.py", port: int = 0) -> Server:
        if not port:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
        log = tmp_path_factory.mktemp("server") / "log.txt"
        command = [sys.executable, "-m", "streamlit", "run", str(script)]
        command += ["--server.headless=true", f"--server.port={port}", "--", *arguments]
        started = time.monotonic()
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        server = Server(f"http://127.0.0.1:{port}", process, started)
        running.append(server)
        while time.monotonic() - started < 60:
            if process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(server.url + "/_stcore/health"):
                    return server
            except OSError:
                time.sleep(0.1)
        raise AssertionError(f"the server did not start:\n{log.read_text()}")

    yield start
    for server in running:
        server.process.terminate()
    for server in running:
        server.process.wait(20)


@pytest.fixture(scope="session")
def small(demo: ic.Study) -> ic.Study:
    """The digits with a part of their images, so that every estimator is quick; all mistakes are among them."""
    wrong = demo.misclassified().tolist()
    right = [i for i in range(len(demo.test)) if i not in set(wrong)][:48]
    return demo.replaced(
        train=demo.train.subset(range(240)), test=demo.test.subset(wrong + right), validation=None, name="small"
    )


@pytest.fixture(scope="session")
def server(start_server: Callable[..., Server], small: ic.Study, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """Shows ``small`` where the URL names no study, and has one more estimator."""
    file = small.save(tmp_path_factory.mktemp("studies") / "small")
    return start_server("--study", str(file), "--plugin", "tests.browser.unhurried")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    executable = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if executable is None and os.environ.get("CI") != "true":
        pytest.skip("no Chromium on the PATH: apt-get install chromium, or name it in the variable CHROMIUM")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield started
        started.close()


@dataclass
class Watched:
    """A page and everything that went wrong on it."""

    page: Page
    problems: list[str] = field(default_factory=list)

    def open(self, url: str, wait_for: str = PICTURE) -> None:
        self.page.goto(url)
        self.page.wait_for_selector(wait_for, timeout=120_000)
        self.settle()

    def settle(self) -> None:
        self.page.wait_for_selector(READY, timeout=120_000)

    def press(self, target: Locator) -> None:
        """Click where there is one; while a page is drawn again, the former one's may stand beside it for a moment."""
        expect(target).to_have_count(1, timeout=90_000)
        target.click()

    def tiles(self, label: str) -> Locator:
        """The tiles of the gallery with this label."""
        return self.page.locator(f".grid[aria-label='{label}'] .tile")

    def ids(self, label: str) -> list[int]:
        """What the tiles of a gallery show, in order; on a slow machine the app asks for a click first."""
        tile, begin = self.tiles(label).first, self.page.locator("[class*='st-key-begin_'] button").first
        try:
            tile.or_(begin).first.wait_for()
            if not tile.count() and begin.count():
                begin.click()
            tile.wait_for()
        except TimeoutError as error:
            shown = self.page.get_by_test_id("stMain").inner_text()
            raise AssertionError(f"there is no tile in {label!r}; the page shows:\n{shown}") from error
        return [int(i) for i in self.tiles(label).evaluate_all("tiles => tiles.map(t => t.dataset.id)")]

    def shows(self, label: str, expected: list[int]) -> None:
        """A gallery shows these ids in this order, now or in a moment."""
        end = time.monotonic() + 20
        while time.monotonic() < end and self.ids(label) != expected:
            self.page.wait_for_timeout(100)
        assert self.ids(label) == expected, label

    def quiet(self) -> None:
        """Wait until nothing is computed any more."""
        self.settle()
        while self.page.get_by_test_id("stProgress").count():  # when one is through, the page may begin another
            self.page.wait_for_function("() => !document.querySelector('[data-testid=stProgress]')", timeout=180_000)
            self.settle()

    def through(self) -> None:
        """Wait until all is there; on a slow machine the app asks for clicks first, and says what it would cost."""
        begin = self.page.locator("[class*='st-key-begin_'] button")
        self.quiet()
        while begin.count():
            pressed = begin.first.element_handle()
            pressed.click()
            pressed.wait_for_element_state("hidden")
            self.quiet()

    def broken_pictures(self) -> int:
        script = "images => images.filter(i => i.complete && i.naturalWidth === 0).length"
        return int(self.page.locator(PICTURE).evaluate_all(script))


@pytest.fixture
def watched(browser: Browser) -> Iterator[Callable[..., Watched]]:
    contexts = []

    def make(scheme: str = "light", width: int = 1280, height: int = 1000) -> Watched:
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, accept_downloads=True
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(90_000)  # shared machines are slow at times
        result = Watched(page)
        page.on("pageerror", lambda error: result.problems.append(f"page error: {error}"))
        page.on("response", lambda r: r.status >= 400 and note(result, f"{r.status} {r.url}"))
        page.on("requestfailed", lambda r: r.failure != "net::ERR_ABORTED" and note(result, f"{r.failure}: {r.url}"))
        page.on("console", lambda m: m.type == "error" and "404" not in m.text and note(result, m.text))
        return result

    def note(result: Watched, text: str) -> None:
        # below a page's path Streamlit looks for its server there first, then at the root
        if "/_stcore/health" not in text and "/_stcore/host-config" not in text:
            result.problems.append(text)

    yield make
    for context in contexts:
        try:
            context.close()
        except Error:  # the browser is gone already, which another fixture reports
            break
