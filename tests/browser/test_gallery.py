"""The gallery by itself: ten thousand tiles, keyboard, focus, links, and what is sent."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from playwright.sync_api import Locator, Page

import influence_core as ic
from tests.browser.conftest import READY, ROOT, Server, Watched

sys.path.insert(0, str(ROOT / "pages"))
from parts import gallery as component
from parts.gallery import Tile, Tiles, train_tile, train_tiles

from tests.browser.gallery_names import ARABIC, HOSTILE, LONG

Open = Callable[..., Watched]
MANY = 10_000


@pytest.fixture(scope="module")
def galleries(start_server: Callable[..., Server]) -> Server:
    return start_server(script=Path(__file__).with_name("gallery_app.py"))


def opened(server: Server, watched: Open, query: str = "", **options: Any) -> Page:
    view = watched(**options)
    view.open(f"{server.url}/{query}", wait_for=".tile")
    view.page.wait_for_selector("[data-testid=stCode]")
    return view.page


def tiles(page: Page, name: str = "many pictures") -> Locator:
    return page.locator(f".grid[aria-label='{name}'] .tile")


def tile(page: Page, tile_id: int, name: str = "many pictures") -> Locator:
    return page.locator(f".grid[aria-label='{name}'] .tile[data-id='{tile_id}']")


def focused(page: Page) -> int | None:
    script = "() => document.activeElement?.shadowRoot?.activeElement?.dataset.id ?? null"
    found = page.evaluate(script)
    return None if found is None else int(found)


def told(page: Page) -> dict[str, Any]:
    """What the script has seen."""
    page.wait_for_selector(READY)
    return json.loads(page.get_by_test_id("stCode").inner_text())


def wait_for_picks(page: Page, picks: list[int]) -> None:
    page.get_by_test_id("stCode").get_by_text(f'"picks": {picks}').wait_for()


def columns(page: Page, name: str = "many pictures") -> int:
    tops = tiles(page, name).evaluate_all("tiles => tiles.map(t => Math.round(t.getBoundingClientRect().top))")
    return tops.count(min(tops))


def test_only_what_is_near_the_view_is_in_the_document(galleries: Server, watched: Open) -> None:
    view = watched()
    requested: set[str] = set()
    view.page.on("request", lambda r: "/api/picture" in r.url and requested.add(r.url))
    view.open(f"{galleries.url}/", wait_for=".tile")
    page = view.page
    assert 30 <= tiles(page).count() < 400
    assert len(requested) < 200
    places = page.locator(".grid[aria-label='many pictures'] [role=listitem]")
    assert places.first.get_attribute("aria-setsize") == str(MANY)
    scroller = page.locator(".scroller.scrolls")
    total = scroller.evaluate("s => s.scrollHeight")
    scroller.evaluate("s => { s.scrollTop = s.scrollHeight / 2; }")
    tile(page, MANY // 2).wait_for()
    middle = tiles(page).evaluate_all("tiles => tiles.map(t => Number(t.dataset.id))")
    # the first tile stays as the tab stop; the others are those of the middle, in order
    assert middle == sorted(middle)
    assert middle[0] == 0
    assert abs(np.median(middle) - MANY / 2) < 100
    assert len(middle) < 400
    assert scroller.evaluate("s => s.scrollHeight") == total
    assert [problem for problem in view.problems if "/none/" not in problem] == []  # the picture that is not there


def test_keys_move_by_rows_and_columns_and_pick(galleries: Server, watched: Open) -> None:
    page = opened(galleries, watched)
    wide = columns(page)
    assert wide > 3
    assert tiles(page).evaluate_all("tiles => tiles.filter(t => t.tabIndex === 0).length") == 1
    tile(page, 0).focus()
    for key, expected in (
        ("ArrowRight", 1),
        ("ArrowDown", 1 + wide),
        ("ArrowDown", 1 + 2 * wide),
        ("ArrowLeft", 2 * wide),
        ("ArrowUp", wide),
        ("Home", 0),
        ("ArrowLeft", 0),
        ("ArrowUp", 0),
        ("End", MANY - 1),
        ("ArrowDown", MANY - 1),
        ("ArrowRight", MANY - 1),
        ("ArrowUp", MANY - 1 - wide),
    ):
        page.keyboard.press(key)
        assert focused(page) == expected, key
    box, outer = tile(page, MANY - 1 - wide).bounding_box(), page.locator(".scroller.scrolls").bounding_box()
    assert box is not None
    assert outer is not None
    assert outer["y"] <= box["y"]
    assert box["y"] + box["height"] <= outer["y"] + outer["height"] + 1
    assert tiles(page).count() < 400
    page.keyboard.press("PageUp")
    paged = focused(page)
    assert paged is not None
    rows, rest = divmod(MANY - 1 - wide - paged, wide)
    assert rest == 0
    assert 1 < rows < 10
    page.keyboard.press("Enter")
    wait_for_picks(page, [paged])
    assert told(page)["runs"] == 2  # one pick, one run
    assert focused(page) == paged
    assert tile(page, paged).get_attribute("aria-current") == "true"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    wait_for_picks(page, [paged, paged + 1])


def test_focus_and_scroll_outlive_a_run_and_a_change_of_the_tiles(galleries: Server, watched: Open) -> None:
    page = opened(galleries, watched, "?count=500")
    tile(page, 0).focus()
    page.keyboard.press("ArrowRight")
    page.evaluate(
        "() => { document.kept = [...document.querySelectorAll('*')].map(e => e.shadowRoot?.activeElement)"
        ".find(Boolean) }"
    )
    page.keyboard.press("Enter")
    wait_for_picks(page, [1])
    told(page)
    same = "() => document.activeElement.shadowRoot.activeElement === document.kept"
    assert page.evaluate(same)  # the very node
    # scrolled far away it still has the focus, and an arrow key brings it back
    page.locator(".scroller.scrolls").evaluate("s => { s.scrollTop = s.scrollHeight; }")
    tile(page, 499).wait_for()
    assert focused(page) == 1
    page.keyboard.press("ArrowRight")
    assert focused(page) == 2
    # tiles 0 to 4 go: the focus is elsewhere, and the nearest is where Tab comes to
    page.get_by_role("spinbutton").fill("5")
    page.keyboard.press("Enter")
    tile(page, 0).wait_for(state="detached")
    told(page)
    stop = tiles(page).evaluate_all("tiles => tiles.filter(t => t.tabIndex === 0).map(t => Number(t.dataset.id))")
    assert stop == [7]


def test_rapid_clicks_end_with_the_last(galleries: Server, watched: Open) -> None:
    page = opened(galleries, watched, "?count=60")
    for i in (2, 3, 4):
        tile(page, i).click(no_wait_after=True)
    page.wait_for_function(
        "() => document.querySelector('[data-testid=stCode]').innerText.match(/\"picks\": \\[[^\\]]*4\\]/)"
    )
    assert told(page)["picks"][-1] == 4
    assert tiles(page).and_(page.locator(".selected")).evaluate_all("t => t.map(t => t.dataset.id)") == ["4"]
    before = told(page)
    tile(page, 8).dblclick()
    wait_for_picks(page, [*before["picks"], 8])
    assert told(page)["runs"] == before["runs"] + 1


def test_linked_tiles_light_up_together(galleries: Server, watched: Open) -> None:
    page = opened(galleries, watched, "?count=60")
    lit = page.locator(".tile.lit")
    tile(page, 1).hover()
    assert lit.count() == 3  # in each of the three galleries
    assert lit.evaluate_all("tiles => tiles.map(t => t.dataset.id)") == ["1", "1", "1"]
    tile(page, 40).hover()  # has a link that no other tile has
    assert lit.count() == 0
    page.mouse.move(5, 5)
    tile(page, 0, "few pictures").focus()
    assert sorted(lit.evaluate_all("tiles => tiles.map(t => t.dataset.id)")) == ["0", "3", "3"]
    page.get_by_role("spinbutton").focus()
    assert lit.count() == 0


def test_a_closed_dialog_gives_the_focus_back(galleries: Server, watched: Open) -> None:
    page = opened(galleries, watched, "?count=60")
    for close in (lambda: page.keyboard.press("Escape"), lambda: page.get_by_label("Close").click()):
        tile(page, 2, "few pictures").click()
        page.get_by_text("dialog of 2").wait_for()
        assert focused(page) is None
        close()
        page.get_by_role("dialog").wait_for(state="detached")
        page.wait_for_function("() => document.activeElement?.shadowRoot?.activeElement?.dataset.id === '2'")
        assert focused(page) == 2
    page.keyboard.press("ArrowRight")
    assert focused(page) == 3


def test_roles_names_and_texts(galleries: Server, watched: Open) -> None:
    page = opened(galleries, watched, "?count=60")
    few = page.get_by_role("list", name="few pictures")
    items = few.get_by_role("listitem")
    assert items.count() == 5
    assert [items.nth(i).get_attribute("aria-posinset") for i in range(5)] == ["1", "2", "3", "4", "5"]
    buttons = few.get_by_role("button")
    assert buttons.count() == 5
    assert page.get_by_role("list", name="training images").get_by_role("button").count() == 0
    assert page.get_by_role("list", name="training images").get_by_role("img", name="training image 0, given").count()
    # hostile names are text, whole in the tip and in what a screen reader says
    assert few.get_by_text(HOSTILE, exact=True).count() == 1
    assert HOSTILE in (items.nth(0).get_attribute("title") or "")
    assert HOSTILE in (tile(page, 0, "few pictures").locator("img").get_attribute("alt") or "")
    assert page.locator("img[src='x'], img[src$='/x']").count() == 0
    # a long name has two lines, is cut there, and is whole in the tip
    name = tile(page, 1, "few pictures").locator(".label > bdi:not([hidden])")
    assert name.inner_text() == LONG
    high, whole = name.evaluate("e => [e.clientHeight / parseFloat(getComputedStyle(e).lineHeight), e.scrollHeight]")
    assert round(high) == 2
    assert whole > name.evaluate("e => e.clientHeight")
    assert LONG in (items.nth(1).get_attribute("title") or "")
    # a flag and a lost picture are said in words; a struck label and its true one are both there
    assert few.get_by_role("button", name=re.compile("label suspected wrong")).count() == 2
    tile(page, 4, "few pictures").scroll_into_view_if_needed()
    few.get_by_role("img", name=re.compile("lost.*no picture")).wait_for()
    assert tile(page, 4, "few pictures").locator("img").is_hidden()
    assert few.get_by_role("button", name=re.compile(f"cat, {ARABIC}")).count() == 1
    assert (
        tile(page, 3, "few pictures")
        .locator(".label")
        .evaluate("e => [...e.querySelectorAll('bdi:not([hidden])')].length")
        == 2
    )
    tops = tiles(page, "few pictures").evaluate_all("tiles => tiles.map(t => t.getBoundingClientRect().height)")
    assert len(set(tops)) == 1  # one height, whatever the texts


def test_galleries_of_one_number_of_columns_line_up_and_follow_the_width(galleries: Server, watched: Open) -> None:
    page = opened(galleries, watched, "?count=60")
    left = "tiles => tiles.map(t => Math.round(t.getBoundingClientRect().left))"
    few, train = (tiles(page, name).evaluate_all(left) for name in ("few pictures", "training images"))
    assert few == train[:5]
    assert columns(page, "training images") == 6
    wide = columns(page)
    page.set_viewport_size({"width": 640, "height": 1000})
    page.wait_for_function(
        "([wide]) => { const s = [...document.querySelectorAll('[data-testid=stBidiComponentIsolated]')][0].shadowRoot;"
        "const t = [...s.querySelectorAll('.tile')].map(t => t.getBoundingClientRect());"
        "return t.filter(r => r.top === t[0].top).length < wide; }",
        arg=[wide],
    )
    assert columns(page, "training images") == 6
    assert page.get_by_test_id("stMain").evaluate("m => m.scrollWidth <= m.clientWidth")


def test_many_tiles_as_tall_as_the_page_needs_are_virtual_too(galleries: Server, watched: Open) -> None:
    page = opened(galleries, watched, "?mode=page")
    assert tiles(page).count() < 400
    tile(page, 0).focus()
    page.keyboard.press("End")
    assert focused(page) == MANY - 1
    assert tiles(page).count() < 400
    box = tile(page, MANY - 1).bounding_box()
    assert box is not None
    assert 0 < box["y"] < 1000


def luminance(colour: str) -> float:
    found = [float(v) for v in re.findall(r"[\d.]+(?:e-?\d+)?", colour)][:3]
    scale = 1.0 if colour.startswith("color(") else 255.0
    linear = [v / scale / 12.92 if v / scale <= 0.04045 else ((v / scale + 0.055) / 1.055) ** 2.4 for v in found]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_text_is_readable_in_both_themes(galleries: Server, watched: Open) -> None:
    page = opened(galleries, watched, "?count=60")
    tile(page, 4, "few pictures").scroll_into_view_if_needed()
    tile(page, 4, "few pictures").locator(".missing").wait_for()
    tile(page, 2, "few pictures").hover()
    parts = {".label > bdi", ".label s", ".note", ".badge", ".missing"}
    script = """(tiles, parts) => tiles.flatMap(tile => parts.flatMap(part =>
      [...tile.querySelectorAll(part)].filter(e => e.offsetHeight).map(e => {
        const own = getComputedStyle(e), ground = part === '.badge' ? own : getComputedStyle(tile);
        return [part, own.color, ground.backgroundColor];
      })))"""
    for scheme, background in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(18, 21, 28)")):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]  # a literal
        page.wait_for_function(
            "expected => getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor === expected",
            arg=background,
        )
        page.wait_for_timeout(300)  # the ground under the pointer changes in 0.12 s
        found = tiles(page, "few pictures").evaluate_all(script, list(parts))
        assert {part for part, _, _ in found} == parts
        for part, colour, ground in found:
            high, low = sorted((luminance(colour), luminance(ground)), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5, (scheme, part, colour, ground)


def test_columns_hold_what_the_tiles_said() -> None:
    given: list[Tile] = [
        {
            "id": i,
            "src": f"/pictures/{i}.webp",
            "label": f"class {i % 3}",
            "note": f"#{i}",
            "bar": i / 8,
            "flagged": i > 5,
        }
        for i in range(9)
    ]
    given[2]["struck"] = "café"
    held = Tiles.of(given)
    assert len(held) == 9
    for i, one in enumerate(given):
        assert held.tile(i) == {**one, "bar": pytest.approx(one["bar"], abs=5e-4)}
    with pytest.raises(ic.InvalidInput, match="9 tiles need as many of 'note', not 2"):
        held.adding(note=["a", "b"])
    assert len(Tiles.of([])) == 0


def test_train_tiles_say_what_is_known(demo: ic.Study) -> None:
    data = demo.train
    assert data.true_labels is not None
    wrong = int((data.true_labels != data.labels).nonzero()[0])
    right = int((data.true_labels == data.labels).nonzero()[0])
    ranks = np.random.default_rng(0).permutation(len(data)) + 1
    shown = train_tiles(demo, [right, wrong], flagged={wrong}, ranks=ranks)
    one, two = shown.tile(0), shown.tile(1)
    assert one["label"] == data.class_name(int(data.labels[right]))
    assert "struck" not in one
    assert two["struck"] == data.class_name(int(data.labels[wrong]))
    assert two["label"] == data.class_name(int(data.true_labels[wrong]))
    assert two["tip"] == f"training image {wrong}, given label {two['struck']}, truly {two['label']}"
    assert (bool(one["flagged"]), bool(two["flagged"])) == (False, True)
    assert two["note"] == f"#{wrong} · rank {ranks[wrong]}"
    assert two["bar"] == pytest.approx(1 - (ranks[wrong] - 1) / len(data), abs=1e-3)
    assert two["link"] == f"train-{wrong}"
    single = train_tile(demo, wrong, True, note="x")
    assert single == {
        **{k: v for k, v in two.items() if k not in ("bar", "kind", "note")},
        "note": "x",
    }


def test_ten_thousand_tiles_are_cheap_and_small(demo: ic.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    monkeypatch.setattr(component, "_component", lambda: lambda key, data, on_picked_change: sent.append(data))
    inputs, labels = demo.train.batch(torch.arange(MANY) % len(demo.train))
    rng = np.random.default_rng(0)
    data = ic.data.LabelledDataset(
        torch.utils.data.TensorDataset(inputs, labels), true_labels=labels[torch.from_numpy(rng.permutation(MANY))]
    )
    study = demo.replaced(train=data, validation=None)
    ids, ranks = torch.from_numpy(rng.permutation(MANY)), torch.from_numpy(rng.permutation(MANY) + 1)
    flagged = set(ids[: MANY // 2].tolist())
    assert data.fingerprint  # read once, when a study is opened
    seconds, singly = [], []
    for _ in range(5):
        start = time.process_time()
        component.gallery(train_tiles(study, ids, flagged, ranks), "many", on_pick=print)
        seconds.append(time.process_time() - start)
        start = time.process_time()
        one_by_one = [train_tile(study, index, index in flagged, size=96) for index in ids[: MANY // 10].tolist()]
        singly.append(10 * (time.process_time() - start))
    assert len(one_by_one) == MANY // 10
    print(f"{1e3 * min(seconds):.0f} ms, one by one {1e3 * min(singly):.0f}, {len(sent[-1].encode()) / 1e3:.0f} kB")
    assert min(seconds) < min(singly) / 2
    assert len(json.dumps(sent[-1]).encode()) < 500_000
    component.gallery([], "none")
    assert len(sent) == 5  # an empty gallery is not even sent
