"""The README's picture: ``python -m tests.benchmarks.screenshot``."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[2]
PORT = 8597


def main() -> None:
    """Start the app, open Overview in Chromium, and write ``assets/overview.png``."""
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.headless=true", f"--server.port={PORT}"]
    server = subprocess.Popen(command, cwd=ROOT)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
            )
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            for _ in range(100):
                try:
                    page.goto(f"http://127.0.0.1:{PORT}")
                    break
                except Exception as error:  # the server is not up yet
                    if "ERR_CONNECTION_REFUSED" not in str(error):
                        raise
                    time.sleep(0.2)
            page.wait_for_selector("[data-testid=stMetric]", timeout=60_000)
            page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")
            page.wait_for_timeout(500)
            page.screenshot(path=ROOT / "assets" / "overview.png")
            browser.close()
    finally:
        server.terminate()


if __name__ == "__main__":
    main()
