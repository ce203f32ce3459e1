"""Work that outlives its page, its tab and its server, in a real browser."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

import influence_core as ic
from tests.browser.conftest import ROOT, Server, Watched
from tests.browser.test_journeys import influence, row, until

Open = Callable[..., Watched]
SLOW, FAILS = "leisurely", "stumbling"
HARMFUL = "Leisurely: most harmful training images"
SOON = 60_000
SHARDS = 6
"""Of 700 training images."""


@dataclass
class Place:
    """A server with a store of its own, and more training images than one shard holds."""

    start: Callable[..., Server]
    store: ic.store.Store
    study: ic.Study
    file: Path
    gate: Path
    server: Server

    def begin_again(self) -> None:
        """A new server where the former was."""
        self.server = self.start(*arguments(self.file), port=urlsplit(self.server.url).port)

    def job(self, test_id: int, name: str = SLOW) -> ic.jobs.Job:
        """Found without its estimator, which only the server knows."""
        asked = {(spec["estimator"], *spec["test"]): row.id for row, spec in self.rows()}
        return ic.jobs.Job(self.store, asked[name, test_id])

    def rows(self) -> list[tuple[ic.jobs.Row, dict[str, Any]]]:
        return [(row, json.loads(row.spec)) for row in ic.jobs.rows(self.store)]

    def parts(self, job: ic.jobs.Job) -> int:
        """Finished shards of an answer that is not whole."""
        return len(list(self.store.path.glob(f"works/*/{job.id}/*/rows-*.safetensors")))

    def address(self, test_id: int, name: str = SLOW) -> str:
        """The page of an image; the loss flags, for that is quick."""
        return f"{self.server.url}/explain?estimator={name},loss&test={test_id}"

    def computed(self, test_id: int) -> list[int]:
        """The first image of every shard that a worker began with, by its log."""
        return [int(n) for n in re.findall(r"^at image (\d+)$", self.job(test_id).log(10_000), re.MULTILINE)]


def arguments(file: Path) -> list[str]:
    return ["--study", str(file), "--plugin", "tests.browser.unhurried"]


@pytest.fixture(scope="module")
def place(
    start_server: Callable[..., Server], demo: ic.Study, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("jobs")
    study = demo.replaced(validation=None, name="jobs", train=demo.train.subset(range(700)))
    file = study.save(folder / "jobs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INFLUENCE_STORE", str(folder / "store"))
        patch.setenv("TESTS_GATE", str(folder / "gate"))
        store = ic.store.Store()
        server = start_server(*arguments(file))
        yield Place(start_server, store, ic.Study.load(file), file, folder / "gate", server)
        for job in ic.jobs.jobs(store):
            job.cancel()


def begun(view: Watched, place: Place, test_id: int) -> ic.jobs.Job:
    """The job of an image, from the click on Start until it shows its first part and waits at the gate."""
    place.gate.unlink(missing_ok=True)
    view.open(place.address(test_id), wait_for=".tile")
    view.press(view.page.get_by_role("button", name="Start"))
    view.page.get_by_text("unchanged since").first.wait_for(timeout=SOON)
    return place.job(test_id)


def expected(place: Place, test_id: int) -> list[int]:
    return influence(place.study, "lastlayer", test_id).harmful(test_id, 5)["train_id"].tolist()


def whole(view: Watched, place: Place, test_id: int) -> None:
    """Let the job go on, wait for its answer, and compare that with the library's."""
    place.gate.touch()
    view.page.get_by_text("How far to trust it").first.wait_for(timeout=SOON)
    view.shows(HARMFUL, expected(place, test_id))


def test_a_reload_in_the_middle_goes_on_and_two_tabs_have_one_job(place: Place, watched: Open) -> None:
    view, other = watched(), watched()
    job = begun(view, place, 3)
    assert "So far, of" in view.page.get_by_test_id("stMain").inner_text()
    assert view.tiles(HARMFUL).count() == 5
    process = job.row.process
    view.page.reload()
    other.open(place.address(3), wait_for=".tile")
    for tab in (view, other):
        tab.page.get_by_role("button", name="Stop").wait_for()
    assert (job.row.process, job.row.attempt, job.state) == (process, 1, "running")
    for tab in (view, other):
        whole(tab, place, 3)
        assert tab.problems == []
    assert len(place.rows()) == 1
    assert len(place.computed(3)) == SHARDS  # each once


def test_cancel_ends_it_soon_and_resume_skips_what_is_finished(place: Place, watched: Open) -> None:
    view = watched()
    page = view.page
    job = begun(view, place, 5)
    view.press(page.get_by_test_id("stMain").get_by_role("link", name="Job"))
    page.get_by_role("button", name="Cancel").first.wait_for()
    assert job.id[:12] in page.url
    view.press(page.get_by_role("button", name="Cancel"))
    clicked = time.monotonic()
    until(lambda: job.state == "cancelled", 10)
    assert time.monotonic() - clicked < 2.5  # two, and a click's way to the server
    ended = job.row.ended
    assert ended is not None
    page.get_by_role("button", name="Resume").first.wait_for()
    kept = place.parts(job)
    assert kept >= 1
    before = place.computed(5)
    link = page.get_by_test_id("stMain").get_by_role("link", name="Open").get_attribute("href") or ""
    assert {"run=jobs", f"estimator={SLOW}", "test=5"} <= set(urlsplit(link).query.split("&"))
    view.open(place.address(5), wait_for=".tile")
    page.get_by_text("was stopped").first.wait_for()
    view.press(page.get_by_role("button", name="Resume"))
    whole(view, place, 5)
    again = place.computed(5)[len(before) :]
    assert len(again) == SHARDS - kept
    assert not set(again) & set(before[:kept])
    assert job.row.attempt == 2
    assert view.problems == []


def test_an_error_is_a_sentence_with_its_log(place: Place, watched: Open) -> None:
    view = watched()
    view.open(place.address(3, FAILS), wait_for=".tile")
    view.press(view.page.get_by_role("button", name="Start"))
    view.page.get_by_text("a stone was in the way").first.wait_for(timeout=SOON)
    alert = view.page.get_by_test_id("stAlert").filter(has_text="a stone was in the way")
    assert "This should not have happened" in alert.inner_text()
    view.page.get_by_text("Log", exact=True).click()
    expect(view.page.get_by_test_id("stCode").last).to_contain_text("Traceback")
    assert place.job(3, FAILS).state == "failed"
    assert view.page.get_by_role("button", name="Resume").is_visible()
    assert view.problems == []


def test_it_outlives_the_server_and_a_new_one_shows_it_to_the_old_tab(place: Place, watched: Open) -> None:
    view = watched()
    job = begun(view, place, 13)
    process = job.row.process
    place.server.process.kill()
    place.server.process.wait()
    there = place.parts(job)
    place.gate.touch()
    until(lambda: place.parts(job) > there or job.state == "done")
    place.begin_again()
    whole(view, place, 13)  # in the tab that was open all the time
    assert (job.row.process, job.row.attempt, job.state) == (process, 1, "done")
    assert len(place.computed(13)) == SHARDS


def test_a_job_of_the_command_line_is_seen_and_opened(place: Place, watched: Open) -> None:
    command = [sys.executable, "-m", "influence_core.cli", "score", str(place.file), "lastlayer", "--what", "influence"]
    here = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([*command, "--test", "11", "--job"], check=True, cwd=ROOT, env=here, capture_output=True)
    job = place.job(11, "lastlayer")
    view = watched()
    view.open(f"{place.server.url}/jobs?job={job.id[:8]}", wait_for="[data-testid=stDataFrame]")
    view.page.get_by_text(job.title).first.wait_for()
    until(lambda: job.state == "done", 60)
    view.page.get_by_role("button", name="Remove", exact=True).first.wait_for()
    view.press(view.page.get_by_test_id("stMain").get_by_role("link", name="Open"))
    view.tiles(row("lastlayer", "harmful")).first.wait_for()
    view.shows(row("lastlayer", "harmful"), expected(place, 11))
    assert view.problems == []
