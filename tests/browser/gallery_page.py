"""A page of galleries to try the component on."""

import json

import streamlit as st
import torch
from parts import studies
from parts.gallery import Tile, Tiles, gallery, train_tiles

from tests.browser.gallery_names import ARABIC, HOSTILE, LONG

st.set_page_config(layout="wide")
st.html("<style>[data-testid=stMainBlockContainer]{padding-top:3.2rem;max-width:1500px}</style>")
study = studies.study("digits")
state = st.session_state
state.setdefault("picks", [])
state.setdefault("runs", 0)
state["runs"] += 1


@st.dialog("Picked", on_dismiss="rerun")
def opened(tile_id: int) -> None:
    st.write(f"dialog of {tile_id}")


count, mode = int(st.query_params.get("count", "10000")), st.query_params.get("mode", "")
start = st.number_input("start", 0, count - 1, 0)
ids = list(range(start, count))
pictured = [i % len(study.train) for i in ids]
address = Tiles.of_pictures(study.train, pictured, 96)
sources = [str(address.tile(i)["src"]) for i in range(min(len(ids), len(study.train)))]
picked = state["picks"][-1] if state["picks"] else None
many = Tiles(len(ids), {}).adding(
    id=ids,
    src=[sources[i % len(sources)] for i in range(len(ids))],
    label=[f"class {i % 7}" for i in ids],
    note=[f"#{i}" for i in ids],
    selected=[i == picked for i in ids],
    link=[f"train-{i}" for i in ids],
    tip=[f"image {i}" for i in ids],
)
gallery(many, "many", 96, on_pick=state["picks"].append, height=None if mode == "page" else 480, label="many pictures")
few: list[Tile] = [
    {"id": 0, "src": sources[0], "label": HOSTILE, "note": "#0", "bar": -0.7, "badge": "3 of 4", "link": "train-3"},
    {"id": 1, "src": sources[1], "label": LONG, "note": "#1 · +0.2", "bar": 0.4, "flagged": True, "link": "train-1"},
    {
        "id": 2,
        "src": sources[2],
        "label": "Laysan albatross",
        "struck": "Black-footed albatross",
        "note": "#2",
        "bar": 1,
    },
    {"id": 3, "src": sources[3], "label": ARABIC, "struck": "cat", "note": "#3", "bar": -1.0, "selected": True},
    {
        "id": 4,
        "src": "/api/picture/none/0.webp?size=96",
        "label": "lost",
        "note": "#4",
        "flagged": True,
        "selected": True,
    },
]
gallery(few, "few", 96, on_pick=opened, columns=6, label="few pictures")
gallery(
    train_tiles(study, pictured[:12], flagged=pictured[1:3], ranks=torch.arange(len(study.train)) + 1),
    "train",
    columns=6,
    label="training images",
)
gallery([], "none")
st.code(json.dumps({"picks": state["picks"], "runs": state["runs"]}), language=None)
