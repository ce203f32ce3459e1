"""A server of the app and a page of it, for ``tests.benchmarks.app``: when is what there, and what does it cost."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, TimeoutError, ViewportSize

from tests.browser.conftest import READY, ROOT

MOST_WAIT = 10 * 60_000.0  # milliseconds
VIEWPORT: ViewportSize = {"width": 1280, "height": 800}
TRIES, CLICK_MS = 20, 5_000.0  # of a click on a tile that may move
IDLE, QUIET_SECONDS, MOST_REST = 0.05, 2.0, 300.0
BEGIN = "[class*='st-key-begin_'] button"
BEGINS = f"document.querySelector({json.dumps(BEGIN)}) !== null"
RESTS = f"document.querySelector({json.dumps(READY)}) !== null"
MISTAKES = "[aria-label='Test images to choose from']"
FLAGGED = "[aria-label='Training images by suspicion']"

# The galleries draw in shadow roots, which querySelectorAll does not enter.
SCRIPT = """
window.bench = {
  roots(root = document, found = []) {
    found.push(root);
    for (const element of root.querySelectorAll("*")) if (element.shadowRoot) this.roots(element.shadowRoot, found);
    return found;
  },
  all(selector) { return this.roots().flatMap((root) => [...root.querySelectorAll(selector)]); },
  loaded(images) { return images.length > 0 && images.every((i) => i.complete && i.naturalWidth > 0); },
  answer() {
    const sides = ["harmful", "helpful"].map((side) => this.all(`.grid[aria-label*='most ${side}']`));
    if (sides.some((grids) => !grids.length)) return "";
    const images = sides.flat().flatMap((grid) => [...grid.querySelectorAll("img")]);
    return this.loaded(images) ? sides.flat().map((grid) => grid.textContent).join("|") : "";
  },
  first(title) { return this.loaded(this.all(`.grid[aria-label='${title}: most harmful training images'] img`)); },
  partly() { return document.querySelector("[data-testid=stMain]").innerText.includes("So far, of"); },
  explained(test, before) {
    const card = this.all("[aria-label='The test image'] .tile")[0];
    if (card?.dataset.id !== test) return false;
    const now = this.answer();
    return now !== "" && now !== before;
  },
  // the pictures that its own frame shows, wherever on the page it is
  screen(label, count) {
    const grid = this.all(label)[0];
    if (grid?.querySelector(".item")?.getAttribute("aria-setsize") !== `${count}`) return false;
    const frame = grid.closest(".scroller").getBoundingClientRect();
    const images = [...grid.querySelectorAll("img")].filter((image) => {
      const place = image.parentElement.getBoundingClientRect();
      return place.bottom > frame.top && place.top < frame.bottom;
    });
    return this.loaded(images);
  },
  // the id of the tile at a place of a gallery, which is scrolled to where it is out of sight; "" until it is there
  bring(label, place) {
    const grid = this.all(label)[0], tile = grid?.querySelector(`.item[aria-posinset="${place}"] .tile`);
    if (tile) return tile.dataset.id;
    const count = Number(grid?.querySelector(".item")?.getAttribute("aria-setsize"));
    const scroller = grid?.closest(".scroller");
    if (count) scroller.scrollTop = ((place - 1) / count) * scroller.scrollHeight;
    return "";
  },
  plain(count) { return document.querySelectorAll("[data-testid=stImage] img").length === count; },
};
addEventListener("pointerdown", () => (bench.pressed = performance.now()), { capture: true });
"""


@dataclass
class Server:
    """A started server and what it writes."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def memory(self) -> float:
        """Resident MiB."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024

    def own_memory(self) -> float:
        """MiB that are the server's own, and no pages of files (RssAnon)."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024

    def rest(self) -> None:
        """Wait until it does nothing: work in the background is through."""
        began = quiet = time.monotonic()
        spent = self.spent()
        while time.monotonic() - quiet < QUIET_SECONDS:
            at = time.monotonic()
            time.sleep(0.5)
            before, spent = spent, self.spent()
            if spent - before > IDLE * (time.monotonic() - at):
                quiet = time.monotonic()
            if time.monotonic() - began > MOST_REST:
                print(f"the server still works after {MOST_REST:.0f} s", file=sys.stderr)
                return

    def spent(self) -> float:
        """Processor seconds so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def asked(self, start: int) -> list[dict[str, Any]]:
        """The questions to estimators that ``app_probe`` wrote, from the byte ``start`` of the log on."""
        text = self.log.read_bytes()[start:].decode()
        return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("asked {")]


@contextmanager
def served(script: str, *arguments: str, store: Path | None = None) -> Iterator[Server]:
    """A Streamlit server of a script in the project, until the block ends; with an empty store, unless one is given."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", script, "--server.headless=true", f"--server.port={port}"]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # a job may go on
        log = Path(folder) / "log.txt"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, "--", *arguments],
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={
                    **os.environ,
                    "PYTHONPATH": str(ROOT),
                    "INFLUENCE_STORE": str(store or Path(folder) / "store"),
                },
            )
        server = Server(f"http://127.0.0.1:{port}", process, log)
        try:
            while not _healthy(server.url):
                if process.poll() is not None:
                    raise RuntimeError(f"the server did not start:\n{log.read_text()}")
                time.sleep(0.1)
            yield server
        finally:
            process.terminate()
            process.wait(60)


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url + "/_stcore/health"):
            return True
    except OSError:
        return False


@dataclass
class View:
    """A page of a browser with an empty cache."""

    page: Page

    @classmethod
    @contextmanager
    def of(cls, browser: Browser) -> Iterator[View]:
        """A new page, until the block ends."""
        context = browser.new_context(viewport=VIEWPORT)
        context.add_init_script(SCRIPT)
        page = context.new_page()
        page.set_default_timeout(MOST_WAIT)
        yield cls(page)
        context.close()

    def open(self, url: str, condition: str) -> float:
        """Seconds from navigation until a condition in JavaScript holds and no script runs."""
        self.page.goto(url, wait_until="commit")
        return self._until(f"{RESTS} && {condition}")

    def first_answer(self, url: str, title: str) -> tuple[float, float, bool]:
        """Seconds until the first pictures of an estimator, and until they are those of the whole answer.

        From navigation, or from the click where the app asks for one first, which comes third.
        """
        self.page.goto(url, wait_until="commit")
        there = f"bench.first({json.dumps(title)})"
        seconds, pressed = self._drawn(there)
        began = float(self.page.evaluate("bench.pressed")) / 1000 if pressed else 0.0
        return seconds, self._until(f"{there} && !bench.partly()") - began, pressed

    def pick(self, place: int) -> tuple[int, float]:
        """Click on a mistake of the gallery.

        Returns its id, and the seconds until its training images, harmful and helpful, are drawn (from the click on
        Start, where the app asks for one).
        """
        before = self.page.evaluate("bench.answer()")
        for _ in range(TRIES):
            self._found(RESTS)  # a page that is drawn again may scroll its gallery, and a tile be gone before the click
            test = str(self._found(f"bench.bring({json.dumps(MISTAKES)}, {place})"))
            tile = self.page.locator(f"{MISTAKES} .item[aria-posinset='{place}'] .tile[data-id='{test}']")
            try:
                tile.click(timeout=CLICK_MS)
                break
            except TimeoutError:
                continue
        else:
            raise RuntimeError(f"the mistake at place {place} cannot be clicked")
        began = float(self.page.evaluate("bench.pressed")) / 1000
        drawn, _ = self._drawn(f"bench.explained({json.dumps(test)}, {json.dumps(before)})", began)
        return int(test), drawn

    def mistakes(self) -> int:
        """How many test images of the gallery are in the document; of a long one those in sight."""
        tiles = self.page.locator(f"{MISTAKES} .item")
        tiles.first.wait_for()
        return tiles.count()

    def _drawn(self, condition: str, began: float = 0.0) -> tuple[float, bool]:
        """Seconds until pictures are drawn, and whether the app asked for a click first; then from that on."""
        # met or asked for in one look: what is drawn may be drawn again, and a button may go
        look = (
            f"(() => {{ const met = {condition}; return (met || {RESTS} && {BEGINS}) && [met, performance.now()] }})()"
        )
        met, now = self._found(look)
        if met:
            return now / 1000 - began, False
        self.page.locator(BEGIN).first.click()
        return self._until(condition) - float(self.page.evaluate("bench.pressed")) / 1000, True

    def _until(self, condition: str) -> float:
        """Seconds since navigation at the first frame in which the condition holds."""
        return float(self._found(f"({condition}) && performance.now()")) / 1000

    def _found(self, condition: str) -> Any:
        """The value of a condition at the first frame in which it holds."""
        try:
            return self.page.wait_for_function(condition).json_value()
        except TimeoutError as error:
            shows = self.page.get_by_test_id("stMain").inner_text()
            raise RuntimeError(f"{condition} does not become true; the page shows:\n{shows}") from error
