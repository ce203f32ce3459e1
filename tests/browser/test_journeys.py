"""What a person does in the app, against what the library answers."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pandas as pd
import pytest
from playwright.sync_api import Page

import influence_core as ic
from tests.browser.conftest import ROOT, Server, Watched
from tests.browser.slow_model import PAUSE

Open = Callable[..., Watched]
MISTAKES = "Test images to choose from"
SUSPECTS = "Training images by suspicion"
SIDES = ("harmful", "helpful")


def title(name: str) -> str:
    return ic.estimators.get(name).title


def row(name: str, side: str) -> str:
    """The label of a gallery of Explain."""
    return f"{title(name)}: most {side} training images"


def influence(study: ic.Study, name: str, test_id: int) -> ic.Scores:
    return ic.estimators.get(name).fit(study).influence([test_id])


def detection(study: ic.Study, name: str = "lastlayer") -> ic.applications.Detection:
    return ic.applications.detect(study, ic.estimators.get(name).fit(study).mislabel_scores())


def in_url(page: Page, key: str) -> str | None:
    return parse_qs(urlsplit(page.url).query).get(key, [None])[0]


def wait_for(page: Page, key: str, value: str | None) -> None:
    """Wait until the URL says so."""
    script = "([key, value]) => new URLSearchParams(location.search).get(key) === value"
    page.wait_for_function(script, arg=[key, value])


def place(page: Page, chart: str, x: float, y: float) -> list[float]:
    """Where a point of a figure's axes is in the window."""
    box = page.locator(f".st-key-{chart}")
    box.scroll_into_view_if_needed()
    script = """([chart, x, y]) => {
      const plot = document.querySelector(`.st-key-${chart} .js-plotly-plot`), box = plot.getBoundingClientRect();
      const { xaxis, yaxis } = plot._fullLayout;
      return [box.x + xaxis._offset + xaxis.l2p(x), box.y + yaxis._offset + yaxis.l2p(y)];
    }"""
    page.locator(f".st-key-{chart} .js-plotly-plot").wait_for()
    return page.evaluate(script, [chart, x, y])


def click(page: Page, chart: str, x: float, y: float) -> None:
    at = place(page, chart, x, y)
    page.mouse.move(at[0] + 30, at[1])
    page.mouse.move(*at)
    page.wait_for_timeout(150)  # Plotly looks where the pointer is once in a while; a click takes what it saw
    page.mouse.click(*at)


def until(holds: Callable[[], object], seconds: float = 90.0) -> None:
    """Wait for what another process does."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def most_frequent(study: ic.Study) -> tuple[int, int]:
    """The square of the matrix with the most mistakes."""
    wrong = study.misclassified()
    pairs = list(zip(study.test.labels[wrong].tolist(), study.predictions()[wrong].tolist(), strict=True))
    return max(pairs, key=pairs.count)


def in_square(study: ic.Study, cell: tuple[int, int]) -> set[int]:
    found = (study.test.labels == cell[0]) & (study.predictions() == cell[1])
    return set(found.nonzero().flatten().tolist())


def test_four_estimators_side_by_side_show_what_the_library_ranks(
    server: Server, watched: Open, small: ic.Study
) -> None:
    names, test_id = ["ekfac", "tracin", "lastlayer", "trak"], 3
    scores = {name: influence(small, name, test_id) for name in names}
    together = ic.evaluation.agreement(list(scores.values()), test_id, 5)
    view = watched()
    view.open(f"{server.url}/explain?estimator={','.join(names)}&test={test_id}", wait_for=".tile")
    view.quiet()
    badges = 0
    for name in names:
        for side in SIDES:
            expected = getattr(scores[name], side)(test_id, 5)["train_id"].tolist()
            view.shows(row(name, side), expected)
            for train_id in expected:
                shown = view.tiles(row(name, side)).locator(f"xpath=self::*[@data-id='{train_id}']").locator(".badge")
                count = together.count(train_id, side)  # type: ignore[arg-type]  # a literal
                assert shown.inner_text() == (f"{count} of 4" if count > 1 else "")
                badges += count >= 3
    assert badges, "choose a test image on which three agree"
    side, shared = next(
        (side, int(train_id))
        for side in SIDES
        for train_id in together.table.loc[together.table["side"] == side, "train_id"]
        if together.count(int(train_id), side) >= 3  # type: ignore[arg-type]  # a literal
    )
    naming = [name for name in names if shared in getattr(scores[name], side)(test_id, 5)["train_id"].tolist()]
    lit = view.page.locator(".tile.lit")
    assert lit.count() == 0
    view.page.locator(f".grid[aria-label='{row(naming[0], side)}'] .tile[data-id='{shared}']").hover()
    for name in naming:
        view.page.locator(f".grid[aria-label='{row(name, side)}'] .tile.lit[data-id='{shared}']").wait_for()
    assert set(lit.evaluate_all("tiles => tiles.map(t => t.dataset.id)")) == {str(shared)}
    view.page.mouse.move(5, 5)
    view.page.wait_for_function("n => document.querySelectorAll('.nothing').length === n", arg=0)
    assert lit.count() == 0
    assert view.problems == []


def test_a_square_of_the_matrix_filters_and_a_second_click_shows_all(
    server: Server, watched: Open, small: ic.Study
) -> None:
    cell = most_frequent(small)
    view = watched()
    view.open(f"{server.url}/explain?estimator=lastlayer", wait_for=".tile")
    assert set(view.ids(MISTAKES)) == set(small.misclassified().tolist())
    click(view.page, "matrix", cell[1], cell[0])
    wait_for(view.page, "cell", f"{cell[0]},{cell[1]}")
    view.settle()
    assert set(view.ids(MISTAKES)) == in_square(small, cell) < set(small.misclassified().tolist())
    click(view.page, "matrix", cell[1], cell[0])
    wait_for(view.page, "cell", None)
    view.settle()
    assert set(view.ids(MISTAKES)) == set(small.misclassified().tolist())
    assert view.problems == []


@pytest.mark.parametrize("chart", ["roc", "pr", "checked"])
def test_a_click_on_a_curve_cuts_there(chart: str, server: Server, watched: Open, small: ic.Study) -> None:
    found = detection(small)
    wanted = len(found.flagged) // 2
    wrong, images = int(small.train.corrupted.sum()), len(small.train)  # type: ignore[union-attr]  # known
    hits = int(small.train.corrupted[found.budget(wanted).flagged].sum())  # type: ignore[index]  # known
    at = {
        "roc": ((wanted - hits) / (images - wrong), hits / wrong),
        "pr": (hits / wrong, hits / wanted),
        "checked": (wanted, hits),
    }[chart]
    view = watched()
    view.open(f"{server.url}/mislabels?estimator=lastlayer", wait_for=".tile")
    assert in_url(view.page, "flag") is None
    click(view.page, chart, *at)
    view.page.wait_for_url(re.compile(r"[?&]flag=\d+"))
    view.settle()
    flag = int(in_url(view.page, "flag") or 0)
    assert abs(flag - wanted) <= 2  # the nearest point that is drawn
    cut = found.budget(flag)
    assert float(view.page.get_by_label("Score above", exact=True).input_value()) == pytest.approx(
        cut.threshold, rel=1e-5
    )
    assert len(found.cut(cut.threshold).flagged) == flag
    assert view.page.get_by_label("Images to flag", exact=True).input_value() == str(flag)
    view.shows(SUSPECTS, found.scores.top(k=flag)["train_id"].tolist())
    assert view.problems == []


def test_a_click_on_a_bar_flags_what_lies_above_it(server: Server, watched: Open, small: ic.Study) -> None:
    view = watched()
    view.open(f"{server.url}/mislabels?estimator=lastlayer", wait_for=".tile")
    view.page.locator(".st-key-histogram .js-plotly-plot").wait_for()
    bars = view.page.evaluate(
        """() => document.querySelector('.st-key-histogram .js-plotly-plot').calcdata
          .filter(trace => trace[0].trace.type === 'bar')
          .flatMap(trace => trace.map((bar, i) =>
            ({ x: bar.p, s: bar.s, b: bar.b || 0, data: trace[0].trace.customdata?.[i] })))"""
    )
    tall = max((bar for bar in bars if bar["data"] and bar["s"]), key=lambda bar: bar["s"])
    click(view.page, "histogram", tall["x"], tall["b"] + tall["s"] / 2)
    view.page.wait_for_url(re.compile(r"[?&]flag=\d+"))
    values = detection(small).scores.values
    assert int(in_url(view.page, "flag") or 0) == int((values > tall["data"][1]).sum())
    assert view.problems == []


def test_a_typed_threshold_reaches_the_csv(server: Server, watched: Open, small: ic.Study, tmp_path: Path) -> None:
    found = detection(small)
    ordered = found.scores.values.sort(descending=True).values
    threshold = float((ordered[11] + ordered[12]) / 2)
    typed = f"{threshold:.6g}"
    expected = found.cut(float(typed)).flagged.tolist()
    assert len(expected) == 12 != len(found.flagged)
    view = watched()
    view.open(f"{server.url}/mislabels?estimator=lastlayer", wait_for=".tile")
    box = view.page.get_by_label("Score above", exact=True)
    box.fill(typed)
    box.press("Enter")
    wait_for(view.page, "flag", "12")
    view.settle()
    assert sorted(view.ids(SUSPECTS)) == sorted(expected)
    view.press(view.page.get_by_role("link", name="Relabel these"))
    view.page.wait_for_selector("[data-testid=stDataFrame]")
    view.settle()
    assert in_url(view.page, "flag") == "12"
    with view.page.expect_download() as download:
        view.press(view.page.get_by_role("button", name="Download CSV"))
    file = tmp_path / "relabel.csv"
    download.value.save_as(file)
    table = pd.read_csv(file)
    assert table["is_label_issue"].all()
    assert sorted(table["index"]) == sorted(expected)
    assert view.problems == []


def test_a_threshold_that_is_none_is_refused_in_words(server: Server, watched: Open) -> None:
    view = watched()
    view.open(f"{server.url}/mislabels?estimator=lastlayer&flag=7", wait_for=".tile")
    box = view.page.get_by_label("Score above", exact=True)
    before = box.input_value()
    box.fill("much")
    box.press("Enter")
    view.page.get_by_test_id("stAlert").get_by_text("“much” is no threshold here").wait_for()
    view.settle()
    assert in_url(view.page, "flag") == "7"
    assert view.page.get_by_label("Score above", exact=True).input_value() == before
    assert len(view.ids(SUSPECTS)) == 7
    assert view.problems == []


def test_back_undoes_the_last_choice_on_every_page(server: Server, watched: Open, small: ic.Study) -> None:
    cell = most_frequent(small)
    inside = sorted(in_square(small, cell))
    view = watched()
    page = view.page
    view.open(f"{server.url}/explain?estimator=lastlayer", wait_for=".tile")
    first = view.ids(MISTAKES)[0]
    click(page, "matrix", cell[1], cell[0])
    wait_for(page, "cell", f"{cell[0]},{cell[1]}")
    view.settle()
    chosen = view.ids(MISTAKES)[-1]
    view.tiles(MISTAKES).last.click()
    wait_for(page, "test", str(chosen))
    view.settle()
    view.press(page.get_by_test_id("stSidebar").get_by_role("link", name="Mislabels"))
    page.get_by_role("heading", name="Mislabels").first.wait_for()
    view.tiles(SUSPECTS).first.wait_for()
    view.settle()
    box = page.get_by_label("Images to flag", exact=True)
    for number in (9, 5):
        box.fill(str(number))
        box.press("Enter")
        wait_for(page, "flag", str(number))
        view.settle()

    def shows(flag: str | None = None, test: int | None = None, square: str | None = None) -> None:
        wait_for(page, "flag", flag)
        view.settle()
        assert in_url(page, "cell") == square
        assert in_url(page, "test") == (None if test is None else str(test))

    square = f"{cell[0]},{cell[1]}"
    page.reload()
    view.tiles(SUSPECTS).first.wait_for()
    shows("5", chosen, square)
    assert view.tiles(SUSPECTS).count() == 5
    page.go_back()
    shows("9", chosen, square)
    count(view, SUSPECTS, 9)
    assert page.get_by_label("Images to flag", exact=True).input_value() == "9"
    page.go_back()
    shows(None, chosen, square)
    count(view, SUSPECTS, len(detection(small).flagged))
    page.go_back()
    page.get_by_role("heading", name="Explain", exact=True).first.wait_for()
    shows(None, chosen, square)
    assert sorted(view.ids(MISTAKES)) == inside
    assert page.get_by_label("Test image", exact=True).input_value() == str(chosen)
    page.go_back()
    wait_for(page, "test", None)
    shows(None, None, square)
    page.go_back()
    wait_for(page, "cell", None)
    shows()
    count(view, MISTAKES, len(small.misclassified()))
    assert view.ids(MISTAKES)[0] == first
    assert view.problems == []


def test_back_undoes_the_class_on_overview_and_relabel(server: Server, watched: Open, small: ic.Study) -> None:
    view = watched()
    page = view.page
    heading = "[data-testid=stMain] h1"
    for path in ("", "relabel"):
        view.open(f"{server.url}/{path}?estimator=lastlayer", wait_for=heading)
        view.through()
        before = words(view)
        box = page.get_by_test_id("stSidebar").get_by_role("combobox", name="Class")
        box.click()
        page.get_by_role("option", name="5", exact=False).first.click()
        wait_for(page, "class", "5")
        until(lambda before=before: words(view) != before)  # the address may be there before the page is drawn again
        view.through()
        after = words(view)
        page.reload()
        page.wait_for_selector(heading)
        view.through()
        assert words(view) == after
        page.go_back()
        wait_for(page, "class", None)
        until(lambda after=after: words(view) != after)
        view.through()
        assert words(view) == before
    flagged = detection(small).flagged
    assert f"{len(flagged)} images" in words(view)
    assert view.problems == []


@pytest.mark.parametrize("names", ["lastlayer", "lastlayer,randproj"])
def test_the_answer_is_in_sight_after_a_click_on_a_small_screen(
    names: str, server: Server, watched: Open, small: ic.Study
) -> None:
    view = watched(height=800)
    page = view.page
    view.open(f"{server.url}/explain?estimator={names}", wait_for="[data-testid=stMain] h1")
    view.through()
    chosen = view.ids(MISTAKES)[1]
    view.tiles(MISTAKES).nth(1).click()
    wait_for(page, "test", str(chosen))
    view.shows("The test image", [chosen])
    view.through()
    for name in names.split(","):
        for side in SIDES:
            view.shows(row(name, side), getattr(influence(small, name, chosen), side)(chosen, 5)["train_id"].tolist())
    first = names.split(",")[0]
    for label in ("The test image", *(row(first, side) for side in SIDES)):
        box = view.tiles(label).first.bounding_box()
        assert box is not None
        assert 0 <= box["y"] < box["y"] + box["height"] <= 800, label
    assert view.problems == []


def words(view: Watched) -> str:
    return "\n".join(view.page.get_by_test_id("stMain").get_by_test_id("stMarkdown").all_inner_texts())


def count(view: Watched, label: str, number: int) -> None:
    """Wait until a gallery has so many tiles."""
    view.tiles(label).nth(number - 1).wait_for()
    view.settle()
    assert view.tiles(label).count() == number


def facts(view: Watched, number: int = 0) -> list[list[str]]:
    """The rows of a table in the open panel, as a screen reader is told them."""
    table = view.page.get_by_role("dialog").get_by_test_id("stDataFrame").nth(number)
    cells = "[...row.querySelectorAll('[role=gridcell]')].map(cell => cell.textContent)"
    script = f"table => [...table.querySelectorAll('tr')].map(row => {cells})"
    for _ in range(50):  # the panel may be drawn again between two looks
        table.locator("[role=gridcell]").first.wait_for(state="attached")
        if rows := [row for row in table.evaluate(script) if row]:
            return rows
        view.page.wait_for_timeout(100)
    raise AssertionError("the table has no rows")


def test_the_panel_of_a_tile_tells_what_is_known(server: Server, watched: Open, small: ic.Study) -> None:
    test_id, name = 2, "lastlayer"
    scores = influence(small, name, test_id)
    train_id = int(scores.harmful(test_id, 5)["train_id"].iloc[2])
    predicted = small.class_names[int(small.predictions("train")[train_id])]
    view = watched()
    page = view.page
    view.open(f"{server.url}/explain?estimator={name}&test={test_id}", wait_for=".tile")
    view.quiet()
    page.locator(f".grid[aria-label='{row(name, 'harmful')}'] .tile[data-id='{train_id}']").click()
    panel = page.get_by_role("dialog", name=f"Training image {train_id}")
    panel.wait_for()
    wait_for(page, "image", f"train-{train_id}")
    view.settle()
    told = dict(facts(view))
    assert told["id"] == f"train-{train_id:06d}"
    assert told["file"] == "held in memory"
    assert told["given label"] == small.train.class_name(int(small.train.labels[train_id]))
    assert told["true label"] == small.train.class_name(int(small.train.true_labels[train_id]))  # type: ignore[index]
    assert told["predicted label"].split()[0] == predicted
    order = scores.column(test_id).argsort(stable=True).tolist()
    suspicion = detection(small, name).scores.values.sort(descending=True, stable=True).indices.tolist()
    ranks = {(cells[0], cells[1]): int(cells[2].replace(",", "")) for cells in facts(view, 1)}
    assert ranks[title(name), f"harmful to test image {test_id}"] == order.index(train_id) + 1 == 3
    assert ranks[title(name), "suspicion"] == suspicion.index(train_id) + 1
    image = panel.get_by_role("img", name=f"Training image {train_id}")
    rendering = "e => getComputedStyle(e).imageRendering"
    assert image.evaluate(rendering) == "pixelated"
    panel.get_by_text("smooth", exact=True).click()
    page.wait_for_function(
        "() => getComputedStyle(document.querySelector('[role=dialog] img[alt^=Training]')).imageRendering === 'auto'"
    )
    page.keyboard.press("Escape")
    panel.wait_for(state="detached")
    wait_for(page, "image", None)
    view.press(view.page.get_by_label("The test image").locator(".tile"))
    page.get_by_role("dialog", name=f"Test image {test_id}").first.wait_for()
    view.settle()
    assert dict(facts(view))["file"] == "held in memory"
    assert view.problems == []


@pytest.mark.parametrize("page", ["explain", "mislabels", ""])
def test_a_link_to_a_picture_opens_its_panel(page: str, server: Server, watched: Open) -> None:
    view = watched()
    view.open(f"{server.url}/{page}?estimator=lastlayer&image=train-17", wait_for="[role=dialog] img")
    assert view.page.get_by_role("dialog", name="Training image 17").is_visible()
    assert ["id", "train-000017"] in facts(view)
    view.press(view.page.get_by_role("dialog").get_by_role("button", name="Close"))
    wait_for(view.page, "image", None)
    assert view.problems == []


def test_a_test_image_that_is_none_and_an_empty_class_are_told_in_words(
    server: Server, watched: Open, small: ic.Study
) -> None:
    view = watched()
    page = view.page
    view.open(f"{server.url}/explain?estimator=lastlayer&test=99999", wait_for=".tile")
    view.quiet()
    last = len(small.test) - 1
    assert f"There is no test image “99999”: it is a number from 0 to {last}." in alerts(view)
    surest = view.ids("The test image")[0]
    assert page.get_by_text(f"Showing test image {surest}, the model's surest mistake.").is_visible()
    wrong = small.test.labels[small.misclassified()].tolist()
    without = next(k for k in range(small.num_classes) if k not in wrong)
    view.open(f"{server.url}/explain?estimator=lastlayer&class={without}", wait_for="[data-testid=stAlert]")
    view.quiet()
    assert "No mistakes in this class" in alerts(view)
    assert page.locator(".tile").count() == 0
    view.open(f"{server.url}/?estimator=lastlayer&class={without}", wait_for="[data-testid=stAlert]")
    assert f"gets every test image of class {without} right" in alerts(view).translate({0x2068: None, 0x2069: None})
    right = next(i for i in range(len(small.test)) if i not in small.misclassified().tolist())
    view.open(f"{server.url}/explain?estimator=lastlayer&test={right}", wait_for=".tile")
    view.quiet()
    assert "pulled away from the right answer" in words(view)
    assert "pushed the model to its mistake" not in words(view)
    assert view.problems == []


def alerts(view: Watched) -> str:
    return "\n".join(view.page.get_by_test_id("stAlert").all_inner_texts())


def test_two_tabs_ask_different_estimators_at_once(server: Server, watched: Open, small: ic.Study) -> None:
    asked = {"ekfac": 5, "tracin": 5}  # the same image: only the name keeps their answers apart
    views = {name: watched() for name in asked}
    for name, test_id in asked.items():
        views[name].page.goto(f"{server.url}/explain?estimator={name}&test={test_id}", wait_until="commit")
    for name, test_id in asked.items():
        scores = influence(small, name, test_id)
        for side in SIDES:
            views[name].shows(row(name, side), getattr(scores, side)(test_id, 5)["train_id"].tolist())
        assert views[name].problems == []


def test_another_study_leaves_nothing_of_the_former(server: Server, watched: Open, demo: ic.Study) -> None:
    view = watched()
    page = view.page
    view.open(f"{server.url}/explain?estimator=lastlayer&test=3", wait_for=".tile")
    view.quiet()
    former = page.locator(".tile img").evaluate_all("images => images.map(i => i.src)")
    data = {re.findall(r"/api/picture/(\w+)/", src)[0] for src in former}
    seen = page.evaluate_handle(
        """data => {
          const seen = [], look = () => {
            const old = [...document.querySelectorAll('[data-testid=stBidiComponentIsolated]')]
              .flatMap(e => [...(e.shadowRoot ?? e).querySelectorAll('.tile img')])
              .filter(i => data.some(d => i.src.includes(d))).length;
            const run = new URLSearchParams(location.search).get('run');
            const title = document.querySelector('[data-testid=stMain] h1')?.innerText ?? '';
            const stale = document.querySelector('[data-testid=stApp]')?.dataset.testScriptState;
            seen.push([run, title, old, stale]);
            requestAnimationFrame(look);
          };
          look();
          return seen;
        }""",
        sorted(data),
    )
    view.press(page.get_by_test_id("stSidebar").get_by_role("combobox", name="Study"))
    page.get_by_role("option", name=re.compile(r"digits\W*$")).click()
    wait_for(page, "run", "digits")
    page.get_by_text(f"of {len(demo.test)} test images are misclassified").first.wait_for()
    now = page.evaluate(
        """data => [...document.querySelectorAll('[data-testid=stBidiComponentIsolated]')]
          .flatMap(e => [...(e.shadowRoot ?? e).querySelectorAll('.tile img')])
          .filter(i => data.some(d => i.src.includes(d))).length""",
        sorted(data),
    )
    assert now == 0  # at once, not only once the page is through
    frames: Sequence[list[object]] = seen.json_value()
    assert any(frame[2] for frame in frames)
    view.quiet()
    assert in_url(page, "test") is None
    view.tiles(MISTAKES).first.wait_for()
    assert set(view.ids(MISTAKES)) == set(demo.misclassified().tolist())
    assert view.problems == []


def test_what_is_slow_says_so_waits_for_a_click_and_can_be_stopped(
    server: Server, watched: Open, small: ic.Study
) -> None:
    slow, test_id = "unhurried", 3  # see unhurried.py
    view, other = watched(), watched()
    page = view.page
    view.open(f"{server.url}/explain?estimator={slow}&test={test_id}", wait_for=".tile")
    start = page.get_by_role("button", name="Start")
    start.wait_for()
    assert "nobody knows how long" in words(view)
    assert view.tiles("Unhurried: most harmful training images").count() == 0
    view.press(start)
    stop = page.get_by_role("button", name="Stop")
    stop.first.wait_for()
    page.get_by_text(re.compile(r"waiting · \d+ of 600")).first.wait_for()
    expected = influence(small, "lastlayer", test_id).harmful(test_id, 5)["train_id"].tolist()
    other.open(f"{server.url}/explain?estimator=lastlayer&test={test_id}", wait_for=".tile")
    other.shows(row("lastlayer", "harmful"), expected)
    assert stop.first.is_visible()  # the slow one is still at it
    stop.first.click()
    page.get_by_text("Unhurried was stopped.").first.wait_for()
    view.press(page.get_by_role("button", name="Resume"))
    page.get_by_text(re.compile(r"waiting · \d+ of 600")).first.wait_for()
    page.get_by_test_id("stSidebar").get_by_role("link", name="Overview").click()  # and left while it runs
    page.get_by_role("heading", name="Why did the model get this wrong?").first.wait_for()
    view.open(f"{server.url}/explain?estimator=lastlayer&test={test_id}", wait_for=".tile")
    view.shows(row("lastlayer", "harmful"), expected)
    assert [*view.problems, *other.problems] == []


@dataclass
class Slow:
    """A server whose study takes long to train, with a store of its own."""

    url: str
    study: ic.Study
    store: ic.store.Store

    def job(self, what: str) -> ic.jobs.Job:
        """The only one of this kind."""
        (row,) = [row for row in ic.jobs.rows(self.store) if row.title.startswith(what)]
        return ic.jobs.Job(self.store, row.id)

    def trained(self) -> dict[str, int]:
        """Key of each training that is finished -> when it was."""
        found = self.store.path.glob("works/*/*/*/change.safetensors")
        return {path.parent.parent.name: path.stat().st_mtime_ns for path in found}


@pytest.fixture
def slow(
    start_server: Callable[..., Server], demo: ic.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Slow]:
    plugin = ROOT / "tests" / "browser" / "slow_model.py"
    ic.models.load_plugin(plugin)
    train, test = demo.train.subset(range(120)), demo.test.subset(range(60))
    model = ic.models.build("unhurried_linear")
    ic.training.fit(model, train, epochs=60)
    study = ic.Study(model, train=train, test=test, name="slow")
    file = study.save(tmp_path / "slow", plugin=plugin)
    monkeypatch.setenv("INFLUENCE_STORE", str(tmp_path / "store"))
    monkeypatch.setenv(PAUSE, "0.1")  # thirty batches are three seconds
    server = start_server("--study", str(file), "--plugin", str(plugin))
    monkeypatch.delenv(PAUSE)
    store = ic.store.Store()
    yield Slow(server.url, ic.Study.load(file), store)
    for job in ic.jobs.jobs(store):
        job.cancel()


def test_from_flagged_images_and_a_mistake_to_what_training_shows(slow: Slow, watched: Open) -> None:
    """Both jobs are ended in between and gone on with, and no training is made twice."""
    view, study, store = watched(), slow.study, slow.store
    page, main = view.page, view.page.get_by_test_id("stMain")
    estimator = ic.estimators.LastLayer().fit(study)

    # the suggestions of flagged images, and what they gain
    view.open(f"{slow.url}/relabel?estimator=lastlayer&seeds=2&rows=differs", wait_for=".st-key-measure")
    table = ic.applications.relabel(study, estimator)
    table = table[table["is_label_issue"] & (table["given_label"] != table["suggested_label"])]
    page.get_by_text("Train again with these").first.wait_for()
    view.press(page.get_by_role("button", name="Apply and measure"))
    page.get_by_role("button", name="Stop").first.wait_for()
    job = slow.job("Apply and measure: 8 trainings of 120 images")
    until(lambda: job.row.step == "2 of 8 trainings")
    page.get_by_text("2 of 8 trainings").first.wait_for()
    page.reload()  # it is found under way
    view.press(page.get_by_role("button", name="Stop"))
    page.get_by_text("was stopped after").first.wait_for()
    assert job.state == "cancelled"
    before = slow.trained()
    assert 2 <= len(before) < 8
    view.press(page.get_by_role("button", name="Resume"))
    page.get_by_text("Gain on the test set").first.wait_for(timeout=180_000)
    after = slow.trained()
    assert len(after) == 8
    assert before.items() <= after.items()
    assert (job.state, job.row.attempt) == ("done", 2)
    decisions = table.assign(decision="relabel")
    report = ic.applications.mend(study, decisions=decisions, controls=["random", "clean"], seeds=(0, 1), store=store)
    assert str(report.gain) in main.inner_text()
    assert slow.trained() == after  # nor here

    # the images behind a mistake, left out
    test_id = int(study.misclassified()[0])
    view.open(f"{slow.url}/explain?estimator=lastlayer&test={test_id}&seeds=2", wait_for=".tile")
    view.quiet()
    view.press(page.get_by_role("link", name="What if the harmful ones were left out?"))
    wait_for(page, "set", "harmful")
    page.get_by_role("spinbutton", name="How many").fill("6")
    page.keyboard.press("Enter")
    wait_for(page, "count", "6")
    ids = estimator.influence([test_id]).harmful(test_id, 6)["train_id"].tolist()
    view.shows("Training images that would change", ids)
    found = ic.applications.what_if(study, estimator, ids)
    view.quiet()
    for label, flipped in (
        ("Mistakes that would be mended", found.mends),
        ("Right answers that would break", found.breaks),
    ):
        assert flipped is not None
        if len(flipped):
            assert set(view.ids(label)) == set(flipped.tolist())
    assert page.get_by_text("has been checked by training so far").count() == 1
    view.press(page.get_by_role("button", name="Verify"))
    page.get_by_role("button", name="Stop").first.wait_for()
    job = slow.job("Verify: 4 trainings of up to 120 images")
    view.press(main.get_by_role("link", name="Job"))
    view.press(page.get_by_role("button", name="Cancel"))
    page.get_by_role("button", name="Resume").first.wait_for()
    assert job.state == "cancelled"
    view.press(page.get_by_role("button", name="Resume"))
    page.get_by_role("button", name="Cancel").first.wait_for()
    view.press(main.get_by_role("link", name="Open"))
    page.get_by_text("The prediction was").first.wait_for(timeout=180_000)
    view.settle()
    assert (in_url(page, "set"), in_url(page, "count"), in_url(page, "test")) == ("harmful", "6", str(test_id))
    (receipt,) = [r for r in ic.applications.receipts(store) if r.key == found.receipt.key]
    assert receipt.accuracy is not None
    with_and_without = slow.trained()
    assert len(with_and_without) == 10  # those on the labels as they were are there since the first job
    assert after.items() <= with_and_without.items()
    said = "Test accuracy goes from {:.1%} to {:.1%}".format(*receipt.accuracy)
    assert page.get_by_text(said).count() == 1
    other = watched("dark")
    other.open(page.url, wait_for=".tile")
    other.page.get_by_text(said).first.wait_for()
    assert view.problems == []
    assert other.problems == []
