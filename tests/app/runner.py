"""How a test opens a page in Streamlit's own runner, and reads what it sends to the browser."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pandas as pd
import torch
from streamlit.testing.v1 import AppTest

import influence_core as ic

PAGES = Path(__file__).parents[2] / "pages"
sys.path.insert(0, str(PAGES))

from parts import work  # type: ignore[import-not-found]  # noqa: E402

QUICK = "lastlayer"
"""What most tests ask: the recommended ones take longer."""
LONG = 120.0


def begun(page: str, **query: str) -> AppTest:
    """A page as it is first drawn."""
    app = AppTest.from_file(str(PAGES / "main.py"), default_timeout=LONG)
    app.query_params.update(query)
    app.run()
    return app if page == "overview.py" else app.switch_page(page).run()


def settled(app: AppTest) -> AppTest:
    """The page as it stays, once all that it began is through: no fragment looks again by itself here."""
    while tasks := [task for task in list(work._tasks.values()) if task.under_way]:
        work.wait(tasks, LONG)
        app.run()
    return app.run() if app.get("progress") else app  # what was under way when it was drawn may have ended since


def start(page: str, **query: str) -> AppTest:
    return settled(begun(page, **({"estimator": QUICK} | query)))


def plain(text: str) -> str:
    """Markdown as it is read."""
    return re.sub(r"[\\\u2068\u2069]", "", text)


def texts(app: AppTest) -> str:
    shown = [*app.title, *app.markdown, *app.caption, *app.error, *app.info, *app.warning]
    return plain("\n".join(str(element.value) for element in shown))


def fine(app: AppTest) -> bool:
    """Whether nothing on the page says that something went wrong."""
    return not app.exception and not app.error and not app.warning


def gallery(app: AppTest, key: str) -> dict[str, Any]:
    """The columns of a gallery, as the browser gets them; no ids where there is none."""
    for element in app.get("bidi_component"):
        sent = json.loads(json.loads(element.proto.json))
        if sent["key"] == key:
            tiles = sent["tiles"]
            return {**tiles, "id": each(tiles["id"], sent["count"])}
    return {"id": []}


def each(column: Any, count: int) -> list[Any]:
    """A column's value for every tile."""
    return column if isinstance(column, list) else [column] * count


def linked(app: AppTest) -> dict[str, str]:
    """The parameters of the page's link."""
    (link,) = [code.value for code in app.code if code.value.startswith(("?", "http"))]
    return dict(parse_qsl(urlsplit(link).query))


def detection(study: ic.Study, name: str = QUICK) -> ic.applications.Detection:
    return ic.applications.detect(study, ic.estimators.get(name).fit(study).mislabel_scores())


def surest(study: ic.Study, ids: torch.Tensor) -> int:
    """The test image whose answer the model is surest of."""
    return int(ids[study.probabilities()[ids].max(1).values.argmax()])


def same(shown: pd.DataFrame, made: pd.DataFrame) -> None:
    """Both tables say the same; the page's may have pictures."""
    columns = [column for column in shown.columns if column != "picture"]
    assert len(shown)
    pd.testing.assert_frame_equal(
        shown[columns].reset_index(drop=True), made[columns].reset_index(drop=True), check_dtype=False, rtol=1e-5
    )
