"""The README's pictures: ``python -m tests.benchmarks.screenshot``."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parents[2]
PORT = 8597
PICTURES = {
    "overview": ("", 820, "text=yellow frame"),
    "explain": ("explain?estimator=ekfac,lastlayer,trak&test=475", 860, "text=yellow frame"),
    "mislabels": ("mislabels?estimator=lastlayer,tracin&flag=90", 860, ".grid .item"),
    "what_if": ("what-if?estimator=ekfac&count=20", 860, "text=Verify by retraining"),
}
"""File in ``assets`` -> path of the page, height, and what is there once all of it is."""


def main() -> None:
    """Start the app, open its pages in Chromium, and write the pictures once nothing is left to fill in."""
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.headless=true", f"--server.port={PORT}"]
    server = subprocess.Popen(command, cwd=ROOT)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
            )
            for name, (path, height, there) in PICTURES.items():
                page = browser.new_page(viewport={"width": 1280, "height": height})
                _open(page, f"http://127.0.0.1:{PORT}/{path}")
                page.wait_for_selector(there, timeout=300_000)
                page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")
                page.wait_for_timeout(1500)
                page.screenshot(path=ROOT / "assets" / f"{name}.png")
                page.close()
            browser.close()
    finally:
        server.terminate()


def _open(page: Page, url: str) -> None:
    for _ in range(100):
        try:
            page.goto(url)
        except Exception as error:  # the server is not up yet
            if "ERR_CONNECTION_REFUSED" not in str(error):
                raise
            time.sleep(0.2)
        else:
            return
    raise TimeoutError(f"{url} did not answer")


if __name__ == "__main__":
    main()
