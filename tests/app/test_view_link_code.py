"""View, link and code are one: the link draws the same page again, and the Python makes each table and figure of it."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import pytest
from streamlit.testing.v1 import AppTest

import influence_core as ic

from .runner import gallery, linked, same, start, texts

# what this machine computes: bundled answers have the last bits of the one that made them
pytestmark = pytest.mark.usefixtures("patience", "nothing_kept")


def python(app: AppTest) -> str:
    (lines,) = [code.value for code in app.code if code.value.startswith("import influence_core")]
    return str(lines)


def ran(lines: str) -> tuple[dict[str, Any], list[Any]]:
    """What the lines leave behind, and the values of those that a notebook shows, in order."""
    made: dict[str, Any] = {}
    shown = []
    for node in ast.parse(lines).body:
        if isinstance(node, ast.Expr):
            shown.append(eval(compile(ast.Expression(node.value), "code", "eval"), made))
        else:
            exec(compile(ast.Module([node], []), "code", "exec"), made)
    return made, shown


def drawn(app: AppTest) -> list[str]:
    """What the figures of a page show, without their layout: a page makes them fit."""
    return sorted(json.dumps(json.loads(chart.proto.spec)["data"], sort_keys=True) for chart in app.get("plotly_chart"))


def figures(shown: list[Any]) -> list[str]:
    """The same of figures that the code made; those that are pictures, which a page draws as tiles, are left out."""
    made = [figure for figure in shown if isinstance(figure, go.Figure) and not figure.layout.images]
    return sorted(json.dumps(json.loads(figure.to_json())["data"], sort_keys=True) for figure in made)


def followed(page: str, query: dict[str, str], folder: Path) -> tuple[AppTest, dict[str, Any], list[Any]]:
    """A page, after its link was followed and its code was run."""
    app = start(page, **query).run()  # once more: what fills in may have come while it was drawn
    params = linked(app)
    assert {key: params[key] for key in query} == query
    again = start(page, **params)
    assert texts(again) == texts(app)
    assert drawn(again) == drawn(app)
    assert [t.value.to_csv() for t in again.dataframe] == [t.value.to_csv() for t in app.dataframe]
    assert tiles(again) == tiles(app)
    assert python(again) == python(app)
    made, shown = ran(python(app).replace('"relabel.csv"', repr(str(folder / "relabel.csv"))))
    assert drawn(app) == figures(shown)
    return app, made, shown


def tiles(app: AppTest) -> list[Any]:
    return [element.proto.json for element in app.get("bidi_component")]


def test_overview(tmp_path: Path) -> None:
    app, made, _ = followed("overview.py", {"estimator": "lastlayer", "flag": "37", "class": "3"}, tmp_path)
    for side in ("harmful", "helpful"):
        assert gallery(app, f"overview_lastlayer_{side}")["id"] == made[side]["train_id"].tolist()
    accuracy, suspects, minutes = (metric.value for metric in app.metric)
    assert accuracy == f"{float(made['accuracy']):.1%}"
    assert suspects == f"{len(made['suspects']):,}"
    assert minutes == str(max(1, round(len(made["suspects"]) * 4 / 60)))
    assert len(made["found"].flagged) == 37 > len(made["suspects"]) > 0


@pytest.mark.parametrize(
    "query",
    [
        {"estimator": "lastlayer", "test": "17", "k": "4", "class": "8", "flag": "120"},
        {"estimator": "lastlayer,randproj", "cell": "8,1", "k": "6"},
    ],
)
def test_explain(query: dict[str, str], demo: ic.Study, tmp_path: Path) -> None:
    app, made, _ = followed("explain.py", query, tmp_path)
    names = query["estimator"].split(",")
    scores = made["scores"] if len(names) > 1 else [made["scores"]]
    flagged = set(made["found"].flagged.tolist())
    for name, mine in zip(names, scores, strict=True):
        (test,) = mine.test_ids.tolist()
        for side in ("harmful", "helpful"):
            ids = getattr(mine, side)(test, int(query.get("k", 5)))["train_id"].tolist()
            sent = gallery(app, f"explain_{name}_{side}")
            assert sent["id"] == ids
            marked = sent["flagged"] if isinstance(sent["flagged"], list) else [sent["flagged"]] * len(ids)
            assert [bool(flag) for flag in marked] == [i in flagged for i in ids]
    if len(names) > 1:
        same(app.dataframe[0].value, made["agreement"].table)
        assert all(sentence in texts(app) for sentence in made["agreement"].sentences())
    else:
        same(app.dataframe[0].value, made["harmful"])
        same(app.dataframe[1].value, made["helpful"])
    assert gallery(app, "mistakes")["id"] == made["mistakes"].tolist()
    listed = app.selectbox(key="confusion").options
    pairs = made["pairs"]
    assert [int(words.rpartition("· ")[2]) for words in listed] == pairs["count"].tolist()


@pytest.mark.parametrize(
    "query",
    [
        {"estimator": "lastlayer,loss", "flag": "23", "class": "3"},
        {"estimator": "loss", "flag": "60", "order": "cut"},
    ],
)
def test_mislabels(query: dict[str, str], tmp_path: Path) -> None:
    app, made, _ = followed("mislabels.py", query, tmp_path)
    same(app.dataframe[0].value, made["budgets"])
    assert gallery(app, "flagged")["id"] == made["table"]["train_id"].tolist()
    shown = made["shown"]
    of = f" of this class, {query['flag']} of all" if "class" in query else ""
    right = shown.at(shown.threshold)["precision"]
    assert f"**{len(shown.flagged)} flagged**{of} · {right:.1%} are mislabelled" in texts(app)
    assert f"AUC {100 * shown.auc:.1f} ({shown.auc_interval})" in texts(app)
    assert float(app.text_input(key="threshold").value) == pytest.approx(shown.threshold, rel=1e-5)


@pytest.mark.parametrize(
    "query",
    [
        {"estimator": "lastlayer", "flag": "37", "rows": "differs"},
        {"estimator": "loss", "class": "3", "rows": "all"},
    ],
)
def test_relabel(query: dict[str, str], tmp_path: Path) -> None:
    app, made, _ = followed("relabel.py", query, tmp_path)
    same(app.dataframe[0].value, made["table"])
    kept = pd.read_csv(tmp_path / "relabel.csv")
    assert kept["index"].tolist() == app.dataframe[0].value["index"].tolist()
    assert f"**{len(kept):,} images**" in texts(app)
