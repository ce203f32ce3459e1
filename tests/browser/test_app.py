"""The app as a whole: from a cold start, in both themes, and with data that means harm."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pandas as pd
import pytest
import torch

import influence_core as ic
from tests.browser.conftest import Server, Watched

Open = Callable[..., Watched]
WAITS = {
    "": ".tile",
    "explain": ".tile",
    "mislabels": ".tile",
    "relabel": "[data-testid=stDataFrame]",
    "what-if": ".tile",
}


def test_overview_answers_before_it_fills_in(
    start_server: Callable[..., Server],
    watched: Open,
    demo: ic.Study,
    record_property: Callable[[str, object], None],
) -> None:
    fresh = start_server()
    view = watched()
    view.page.goto(fresh.url)
    view.page.locator(".grid[aria-label$='training images'] img").first.wait_for()
    seconds = time.monotonic() - fresh.started
    record_property("seconds_to_first_answer", seconds)
    print(f"the first answer {seconds:.1f} s after the server was started")
    view.page.get_by_test_id("stProgress").wait_for()  # the suspects are still to come
    name = ic.estimators.recommended(demo, "influence")
    confidence = demo.probabilities().max(1).values
    test_id = max(demo.misclassified().tolist(), key=lambda i: float(confidence[i]))
    assert view.ids("The test image") == [test_id]
    scores = ic.estimators.get(name).fit(demo).influence([test_id])
    title = ic.estimators.get(name).title
    view.shows(f"{title}: most harmful training images", scores.harmful(test_id, 5)["train_id"].tolist())
    view.shows(f"{title}: most helpful training images", scores.helpful(test_id, 5)["train_id"].tolist())
    assert view.broken_pictures() == 0
    assert view.problems == []


def test_overview_says_three_numbers(server: Server, watched: Open, small: ic.Study) -> None:
    view = watched()
    view.open(f"{server.url}/?estimator=lastlayer", wait_for=".tile")
    view.quiet()
    found = ic.applications.detect(small, ic.estimators.LastLayer().fit(small).mislabel_scores())
    shown = dict(
        zip(
            view.page.get_by_test_id("stMetricLabel").all_inner_texts(),
            view.page.get_by_test_id("stMetricValue").all_inner_texts(),
            strict=True,
        )
    )
    assert shown["Test accuracy"] == f"{small.accuracy():.1%}"
    assert shown["Suspect training labels"] == str(len(found.flagged))
    assert len(shown) == 3
    assert view.problems == []


def test_a_deep_link_to_a_fresh_server_shows_that_view_and_keeps_it(
    start_server: Callable[..., Server], watched: Open, demo: ic.Study
) -> None:
    fresh = start_server()
    view, test_id = watched(), 123
    scores = ic.estimators.TRAK().fit(demo).influence([test_id])

    def shows_the_link() -> None:
        page = view.page
        page.get_by_role("heading", name="Explain", exact=True).first.wait_for()
        for side in ("harmful", "helpful"):
            expected = getattr(scores, side)(test_id, 7)["train_id"].tolist()
            view.shows(f"TRAK: most {side} training images", expected)
        view.settle()
        assert page.get_by_label("Test image", exact=True).input_value() == str(test_id)
        assert view.ids("The test image") == [test_id]
        for part in (f"test={test_id}", "estimator=trak", "k=7"):
            assert part in page.url

    view.open(f"{fresh.url}/explain?estimator=trak&test={test_id}&k=7", wait_for=".tile")
    shows_the_link()
    view.page.reload()
    shows_the_link()
    view.press(view.page.get_by_test_id("stSidebar").get_by_role("link", name="Mislabels"))
    view.page.get_by_role("heading", name="Mislabels", exact=True).first.wait_for()
    assert "estimator=trak" in view.page.url
    view.settle()
    view.page.go_back()
    shows_the_link()
    assert view.problems == []


def test_the_csv_opens_in_pandas_and_comes_back(server: Server, watched: Open, small: ic.Study, tmp_path: Path) -> None:
    view = watched()
    view.open(f"{server.url}/relabel?estimator=lastlayer", wait_for="[data-testid=stDataFrame]")
    with view.page.expect_download() as download:
        view.press(view.page.get_by_role("button", name="Download CSV"))
    file = tmp_path / "relabel.csv"
    download.value.save_as(file)
    from influence_core.applications.relabelling import COLUMNS

    assert list(pd.read_csv(file).columns) == COLUMNS
    table = ic.applications.read_relabels(file)
    expected = ic.applications.relabel(small, ic.estimators.LastLayer().fit(small))
    expected = expected[expected["is_label_issue"]].reset_index(drop=True)
    pd.testing.assert_frame_equal(
        table.drop(columns="score"), expected.drop(columns="score"), check_dtype=False, check_exact=False
    )
    mended = ic.applications.apply_relabels(small.train, file, accept="flagged")
    truth = small.train.true_labels
    assert truth is not None
    assert int((mended.labels == truth).sum()) > int((small.train.labels == truth).sum())
    assert view.problems == []


def test_thumbnails_wait_until_they_are_seen(server: Server, watched: Open, demo: ic.Study) -> None:
    view = watched(height=700)
    asked: set[str] = set()
    view.page.on("request", lambda r: "/api/picture" in r.url and asked.add(r.url))
    view.open(f"{server.url}/mislabels?run=digits&estimator=lastlayer&flag=900", wait_for=".tile")
    label = "Training images by suspicion"
    assert view.page.locator(f".grid[aria-label='{label}'] [role=listitem]").first.get_attribute("aria-setsize") == str(
        900
    )
    assert len(asked) < 300
    view.tiles(label).first.focus()
    view.page.keyboard.press("End")
    ranked = ic.estimators.LastLayer().fit(demo).mislabel_scores().top(k=900)["train_id"].tolist()
    last = view.page.locator(f".grid[aria-label='{label}'] .tile[data-id='{ranked[-1]}'] img")
    last.evaluate("image => image.decode()")
    assert len(asked) < 600
    assert view.problems == []


@pytest.mark.parametrize(("scheme", "background"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(18, 21, 28)")])
def test_every_page_fits_in_light_and_dark(server: Server, watched: Open, scheme: str, background: str) -> None:
    view = watched(scheme)
    for page, wait_for in WAITS.items():
        view.open(f"{server.url}/{page}?estimator=lastlayer", wait_for=wait_for)
        shown = view.page.get_by_test_id("stApp").evaluate("app => getComputedStyle(app).backgroundColor")
        assert shown == background
        for width in (1920, 1280):
            view.page.set_viewport_size({"width": width, "height": 1000})
            fits(view)
    assert view.problems == []


def fits(view: Watched) -> None:
    """No page is wider than its window."""
    view.page.wait_for_function(
        """() => [document.documentElement, document.querySelector('[data-testid=stMain]')]
          .every(e => e.scrollWidth <= e.clientWidth)""",
        timeout=5000,
    )
    assert view.page.get_by_test_id("stException").count() == 0


HEBREW = "חתול קטן"
NAMES = ["<img src=x onerror=alert(1)>", "=1+1", "*$x$`", HEBREW, "long " * 48, *(f"**c{i}** $y$" for i in range(5))]


@pytest.fixture(scope="module")
def hostile(demo: ic.Study, tmp_path_factory: pytest.TempPathFactory) -> ic.Study:
    """Names of classes, of the study and of files that would do harm if they were read as markup."""
    root = tmp_path_factory.mktemp("hostile")
    names = [name.strip() for name in NAMES]
    for i in range(120):
        label = int(demo.train.labels[i])
        folder = root / "pictures" / names[label]
        folder.mkdir(parents=True, exist_ok=True)
        demo.train.picture(i).convert("L").save(folder / f"<b>$z$ {i}.png")
    train = ic.data.image_folder(root / "pictures", mean=[0.0], std=[1.0], class_names=names)
    inputs, labels = demo.test.batch(range(len(demo.test)))
    test = ic.data.LabelledDataset(torch.utils.data.TensorDataset(inputs, labels), class_names=names)
    wrong = demo.misclassified().tolist()
    name = "hostile <script>alert(1)</script> **bold**"
    return demo.replaced(train=train, test=test.subset([*wrong, 0, 1, 2]), validation=None, name=name)


def test_names_cannot_become_markup(
    start_server: Callable[..., Server], watched: Open, hostile: ic.Study, tmp_path: Path
) -> None:
    view = watched()
    view.page.on(
        "dialog", lambda dialog: view.problems.append(f"a dialog opened: {dialog.message}") or dialog.dismiss()
    )
    fresh = start_server("--study", str(hostile.save(tmp_path / "hostile")))
    name = quote(hostile.train.class_name(int(hostile.train.labels[0])))
    bold = "all => all.map(e => e.innerText).filter(words => /^(bold|c\\d)$/.test(words))"
    for page, shown in WAITS.items():
        for more, wait_for in (
            ("", shown),
            ("&image=train-0", "[role=dialog] [data-testid=stDataFrame]"),
            (f"&class={name}", "[data-testid=stMain] h1"),
        ):
            view.open(f"{fresh.url}/{page}?estimator=lastlayer{more}", wait_for=wait_for)
            view.quiet()
            assert view.page.locator("img[src='x'], img[src$='/x'], .katex").count() == 0
            assert view.page.locator("strong, em, code").evaluate_all(bold) == []
            fits(view)
    view.open(f"{fresh.url}/?estimator=lastlayer", wait_for=".tile")
    assert hostile.name in view.page.get_by_test_id("stMain").inner_text()
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
