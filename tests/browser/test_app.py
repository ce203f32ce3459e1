"""Journeys through the app in a real browser."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

import influence_core as ic
from tests.browser.conftest import PICTURE, Server, Watched

Open = Callable[..., Watched]


def test_overview_shows_a_mistake_within_ten_seconds(
    start_server: Callable[..., Server], watched: Open, record_property: Callable[[str, object], None]
) -> None:
    fresh = start_server()
    view = watched()
    view.page.goto(fresh.url)
    picture = view.page.locator(PICTURE).first
    picture.wait_for()
    seconds = time.monotonic() - fresh.started
    record_property("seconds_to_first_picture", seconds)
    print(f"first picture {seconds:.1f} s after the server was started")
    view.settle()
    assert view.page.locator(PICTURE).count() == 11  # one test image, five harmful, five helpful
    assert view.broken_pictures() == 0
    assert view.page.get_by_test_id("stMetric").count() == 3
    assert view.problems == []


def test_a_deep_link_to_a_fresh_server_shows_that_view_and_keeps_it(
    start_server: Callable[..., Server], watched: Open, demo: ic.Study
) -> None:
    fresh = start_server()
    view, test_id = watched(), 123
    link = f"{fresh.url}/explain?estimator=gex&test={test_id}"
    expected = ic.estimators.GEX().fit(demo).influence([test_id]).harmful(test_id, 5)["train_id"].tolist()

    def shows_the_link() -> None:
        view.settle()
        page = view.page
        assert page.get_by_role("heading", name="Explain").is_visible()
        assert page.get_by_label("Test image", exact=True).input_value() == str(test_id)
        assert page.get_by_text("GEX · Kim et al. 2023").is_visible()
        page.wait_for_selector(".grid .tile[data-id='123']")
        grids = page.locator(".grid")
        found = [
            grids.nth(i).locator(".tile").evaluate_all("tiles => tiles.map(t => Number(t.dataset.id))")
            for i in range(grids.count())
        ]
        assert expected in found
        assert f"test={test_id}" in page.url
        assert "estimator=gex" in page.url

    view.open(link)
    shows_the_link()
    view.page.reload()
    view.page.wait_for_selector(PICTURE)
    shows_the_link()
    view.page.get_by_test_id("stSidebarNav").get_by_text("Mislabels").click()
    view.page.get_by_role("heading", name="Mislabels").wait_for()
    assert "estimator=gex" in view.page.url
    view.settle()
    view.page.go_back()
    view.page.get_by_role("heading", name="Explain").wait_for()
    view.page.wait_for_selector(PICTURE)
    shows_the_link()
    assert view.problems == []


def test_a_click_and_a_key_choose_another_mistake(server: Server, watched: Open, demo: ic.Study) -> None:
    view = watched()
    view.open(f"{server.url}/explain")
    tiles = view.page.locator("button.tile")
    second, third = (int(tiles.nth(i).get_attribute("data-id") or -1) for i in (1, 2))
    assert {second, third} <= set(demo.misclassified().tolist())
    tiles.nth(1).click()
    view.page.wait_for_url(f"**test={second}*")
    view.settle()
    assert view.page.get_by_text(f"Test image {second}", exact=True).is_visible()
    assert view.page.locator("button.tile.selected").get_attribute("data-id") == str(second)
    tiles.nth(1).focus()
    view.page.keyboard.press("ArrowRight")
    view.page.keyboard.press("Enter")
    view.page.wait_for_url(f"**test={third}*")
    assert view.problems == []


@pytest.mark.parametrize(
    ("begin", "link", "title"),
    [
        ("/?estimator=lastlayer", "Explain another", "Explain"),
        ("/explain?estimator=loss", "Find wrong labels with Loss (control)", "Mislabels"),
    ],
)
def test_a_link_to_another_page_keeps_the_estimator(
    server: Server, watched: Open, begin: str, link: str, title: str
) -> None:
    view = watched()
    view.open(f"{server.url}{begin}", wait_for="[data-testid=stPageLink]")
    view.page.get_by_role("link", name=link).click()
    view.page.get_by_role("heading", name=title, exact=True).wait_for()
    view.settle()
    assert view.page.url.split("?")[1] == begin.split("?")[1]
    assert view.page.get_by_text("Something went wrong").count() == 0
    assert view.problems == []


def test_a_square_of_the_confusion_matrix_filters_the_mistakes(server: Server, watched: Open, demo: ic.Study) -> None:
    view = watched()
    view.open(f"{server.url}/explain")
    wrong = demo.misclassified()
    pairs = list(zip(demo.test.labels[wrong].tolist(), demo.predictions()[wrong].tolist(), strict=True))
    most = max(pairs, key=pairs.count)
    before = view.page.locator("button.tile").count()
    # a plotly click is a mouse event on the drawing: find the square by the number of the mistakes in it
    area = view.page.evaluate(
        """([x, y]) => {
          const plot = document.querySelector('.js-plotly-plot'), box = plot.getBoundingClientRect();
          const { xaxis, yaxis } = plot._fullLayout;
          return [box.x + xaxis._offset + xaxis.l2p(x), box.y + yaxis._offset + yaxis.l2p(y)];
        }""",
        [most[1], most[0]],
    )
    view.page.mouse.click(*area)
    view.page.get_by_text(f"{most[0]} predicted as {most[1]}").first.wait_for()
    view.settle()
    assert view.page.locator("button.tile").count() == pairs.count(most) < before
    assert view.problems == []


def test_the_csv_opens_in_pandas_and_comes_back(server: Server, watched: Open, demo: ic.Study, tmp_path: Path) -> None:
    view = watched()
    view.open(f"{server.url}/relabel", wait_for="[data-testid=stDataFrame]")
    with view.page.expect_download() as download:
        view.page.get_by_text("Download CSV").click()
    file = tmp_path / "relabel.csv"
    download.value.save_as(file)
    from influence_core.applications.relabelling import COLUMNS

    assert list(pd.read_csv(file).columns) == COLUMNS
    table = ic.applications.read_relabels(file)
    expected = ic.applications.relabel(demo, ic.estimators.TracIn().fit(demo))
    expected = expected[expected["is_label_issue"]].reset_index(drop=True)
    pd.testing.assert_frame_equal(
        table.drop(columns="score"), expected.drop(columns="score"), check_dtype=False, check_exact=False
    )
    mended = ic.applications.apply_relabels(demo.train, file, accept="flagged")
    truth = demo.train.true_labels
    assert truth is not None
    assert int((mended.labels == truth).sum()) > int((demo.train.labels == truth).sum())
    assert view.problems == []


def test_thumbnails_wait_until_they_are_seen(server: Server, watched: Open) -> None:
    view = watched(height=700)
    view.open(f"{server.url}/mislabels?flag=400")
    assert view.page.locator(PICTURE).count() == 400
    loaded = "images => images.filter(i => i.complete && i.naturalWidth > 0).length"
    first = view.page.locator(PICTURE).evaluate_all(loaded)
    assert first < 300
    view.page.locator(PICTURE).last.scroll_into_view_if_needed()
    view.page.locator(PICTURE).last.evaluate("image => image.decode()")
    assert view.page.locator(PICTURE).evaluate_all(loaded) > first
    assert view.problems == []


@pytest.mark.parametrize(("scheme", "background"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(18, 21, 28)")])
@pytest.mark.parametrize("width", [1280, 1920])
def test_every_page_fits_in_light_and_dark(
    server: Server, watched: Open, scheme: str, background: str, width: int
) -> None:
    view = watched(scheme, width)
    for page, wait_for in (("", PICTURE), ("explain", PICTURE), ("mislabels", PICTURE), ("relabel", "canvas")):
        view.open(f"{server.url}/{page}", wait_for=wait_for)
        shown = view.page.get_by_test_id("stApp").evaluate("app => getComputedStyle(app).backgroundColor")
        assert shown == background
        main = view.page.get_by_test_id("stMain")
        assert main.evaluate("m => m.scrollWidth <= m.clientWidth")
        assert view.page.get_by_test_id("stException").count() == 0
    assert view.problems == []


def test_class_names_cannot_become_markup(
    start_server: Callable[..., Server], watched: Open, demo: ic.Study, tmp_path: Path
) -> None:
    names = ["<img src=x onerror=alert(1)>", "=1+1", *(f"class *{i}* $x$" for i in range(2, 10))]

    def renamed(data: ic.data.LabelledDataset) -> ic.data.LabelledDataset:
        inputs, labels = data.batch(torch.arange(len(data)))
        return ic.data.LabelledDataset(
            torch.utils.data.TensorDataset(inputs, labels), true_labels=data.true_labels, class_names=names
        )

    hostile = demo.replaced(
        train=renamed(demo.train),
        test=renamed(demo.test),
        validation=None,
        name="hostile <script>alert(1)</script>",
    )
    view = watched()
    view.page.on(
        "dialog", lambda dialog: view.problems.append(f"a dialog opened: {dialog.message}") or dialog.dismiss()
    )
    server = start_server("--study", str(hostile.save(tmp_path / "hostile")))
    for page, wait_for in (("", PICTURE), ("explain", PICTURE), ("mislabels", PICTURE), ("relabel", "canvas")):
        view.open(f"{server.url}/{page}", wait_for=wait_for)
        assert view.page.locator("img[src='x'], img[src$='/x']").count() == 0
    assert view.problems == []


def test_a_study_whose_weights_are_a_pickle_runs_nothing(
    start_server: Callable[..., Server], watched: Open, demo: ic.Study, tmp_path: Path
) -> None:
    from tests.app.test_pages import broken

    broken(tmp_path, "pickle", demo)
    server = start_server("--study", str(tmp_path))
    view = watched()
    view.open(server.url, wait_for="[data-testid=stAlert]")
    message = view.page.get_by_test_id("stAlert").inner_text()
    assert "model.pt" in message
    assert "could run somebody else's code" in message
    assert "Traceback" not in view.page.content()
    assert not (tmp_path / "ran").exists()
