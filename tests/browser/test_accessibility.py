"""Without a mouse, and what axe-core finds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import axe_playwright_python
import pandas as pd
import pytest
from playwright.sync_api import Page

import influence_core as ic
from tests.browser.conftest import Server, Watched

Open = Callable[..., Watched]
AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text(encoding="utf-8")

STREAMLIT: tuple[tuple[str, str, str], ...] = ()
"""Findings inside of Streamlit's own widgets: rule, selector of the widget, why it is not ours to mend."""

# Few tiles are flagged: axe-core gives up on the contrast of everything once a gallery scrolls (it finds an element
# outside of its grid), and says so in ``incomplete`` alone.
PLACES = {
    "overview": ("?estimator=lastlayer", ".tile"),
    "explain": ("explain?estimator=lastlayer", ".tile"),
    "side by side": ("explain?estimator=lastlayer,trak&test=3", ".tile"),
    "mislabels": ("mislabels?estimator=lastlayer&flag=8", ".tile"),
    "relabel": ("relabel?estimator=lastlayer", "[data-testid=stDataFrame]"),
    "what if": ("what-if?estimator=lastlayer&count=8", "[data-testid=stDataFrame]"),
    "jobs": ("jobs", "[data-testid=stDataFrame]"),  # of what the others stored
    "panel": ("mislabels?estimator=lastlayer&flag=8&image=train-17", "[role=dialog] [data-testid=stDataFrame]"),
}

FINDINGS = """known => axe.run(document, { resultTypes: ['violations', 'incomplete'] }).then(result => [
  ...result.incomplete.filter(rule => rule.error).map(rule => `${rule.id} did not run: ${rule.error.message}`),
  ...result.violations.filter(rule => ['serious', 'critical'].includes(rule.impact)).flatMap(rule =>
    rule.nodes.flatMap(node => {
      let root = document, element = null;
      for (const step of node.target.flat()) { element = root.querySelector(step); root = element?.shadowRoot ?? root; }
      if (known.some(([id, widget]) => id === rule.id && element?.closest(widget))) return [];
      const why = [...node.any, ...node.all, ...node.none].map(check => check.message).join('; ');
      return [`${rule.id} (${rule.impact}): ${node.html.slice(0, 200)}: ${why}`];
    })),
])"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("place", PLACES)
def test_axe_finds_nothing_serious_in_what_is_ours(place: str, scheme: str, server: Server, watched: Open) -> None:
    path, wait_for = PLACES[place]
    view = watched(scheme)
    view.open(f"{server.url}/{path}", wait_for=wait_for)
    view.quiet()
    view.page.evaluate(AXE)
    assert view.page.evaluate(FINDINGS, [list(known[:2]) for known in STREAMLIT]) == []
    assert view.problems == []


def test_axe_would_find_something(server: Server, watched: Open) -> None:
    view = watched()
    view.open(f"{server.url}/?estimator=lastlayer", wait_for=".tile")
    view.tiles("The test image").locator("img").evaluate("image => image.removeAttribute('alt')")
    view.page.evaluate(AXE)
    found = view.page.evaluate(FINDINGS, [])
    assert any("image-alt" in finding for finding in found), found


DEEPEST = """let element = document.activeElement;
  while (element?.shadowRoot?.activeElement) element = element.shadowRoot.activeElement;"""
FOCUSED = f"""() => {{
  {DEEPEST}
  if (!element || element === document.body) return null;
  const {{ width, height }} = element.getBoundingClientRect();
  const words = element.getAttribute('aria-label') || element.innerText || '';
  return {{
    words: words.trim(), id: element.dataset.id ?? null, tag: element.tagName, seen: width > 0 && height > 0,
    outline: getComputedStyle(element).outlineStyle !== 'none',
  }};
}}"""
RING = """element => {
  const found = [];  // a ring may be drawn around what holds the element
  for (let e = element, up = 0; e && up < 3; e = e.parentElement ?? e.getRootNode().host, up++) {
    const s = getComputedStyle(e);
    found.push(s.outlineStyle, s.outlineColor, s.boxShadow, s.borderColor, s.backgroundColor);
  }
  return found.join();
}"""


def tab_to(page: Page, words: str, most: int = 60) -> None:
    """Press Tab until the focus is on a control with these words, and see that it shows."""
    stops = []
    for _ in range(most):
        page.keyboard.press("Tab")
        at: dict[str, Any] | None = page.evaluate(FOCUSED)
        stops.append(None if at is None else at["words"])
        if at is None or at["tag"] not in ("A", "BUTTON", "INPUT") or not at["words"].endswith(words):
            continue
        assert at["seen"], at
        element = page.evaluate_handle(f"() => {{ {DEEPEST} return element; }}")
        page.wait_for_timeout(300)  # a ring may take a moment to appear
        with_focus = page.evaluate(RING, element)
        page.evaluate("element => element.blur()", element)
        page.wait_for_timeout(300)
        assert with_focus != page.evaluate(RING, element), f"nothing shows that the focus is on {words!r}"
        page.evaluate("element => element.focus({ focusVisible: true })", element)
        return
    raise AssertionError(f"Tab does not come to {words!r}; it came to {stops}")


def test_from_overview_to_a_csv_without_a_mouse(server: Server, watched: Open, small: ic.Study, tmp_path: Path) -> None:
    view = watched()
    page = view.page
    view.open(f"{server.url}/?estimator=lastlayer", wait_for=".tile")
    view.quiet()
    tab_to(page, "Relabel")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Relabel", exact=True).first.wait_for()
    page.wait_for_selector("[data-testid=stDataFrame]")
    view.quiet()
    tab_to(page, "Download CSV")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    file = tmp_path / "relabel.csv"
    download.value.save_as(file)
    found = ic.applications.detect(small, ic.estimators.LastLayer().fit(small).mislabel_scores())
    assert sorted(pd.read_csv(file)["index"]) == sorted(found.flagged.tolist())
    assert view.problems == []


def test_arrows_enter_and_escape_in_a_gallery(server: Server, watched: Open, small: ic.Study) -> None:
    view = watched()
    page = view.page
    view.open(f"{server.url}/mislabels?estimator=lastlayer", wait_for=".tile")
    view.quiet()
    ranked = ic.estimators.LastLayer().fit(small).mislabel_scores().top(k=3)["train_id"].tolist()
    view.tiles("Training images by suspicion").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    at = page.evaluate(FOCUSED)
    assert at["id"] == str(ranked[2])
    assert at["outline"]
    page.keyboard.press("Enter")
    panel = page.get_by_role("dialog", name=f"Training image {ranked[2]}")
    panel.wait_for()
    view.settle()
    page.keyboard.press("Escape")
    panel.wait_for(state="detached")
    page.wait_for_function(f"() => ({FOCUSED})()?.id === '{ranked[2]}'", timeout=5000)
    view.settle()
    page.wait_for_timeout(500)
    assert page.evaluate(FOCUSED)["id"] == str(ranked[2])  # and it stays there once the page is drawn again
    assert "image=" not in page.url
    assert view.problems == []
