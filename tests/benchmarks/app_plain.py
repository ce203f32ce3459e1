"""What the gallery is compared with: ``streamlit run app_plain.py -- STUDY COUNT`` shows thumbnails with st.image.

The same images, in the same order and size, as Mislabels shows under ``lastlayer``. The bytes are kept, so that only
Streamlit's own work is timed.
"""

from __future__ import annotations

import sys

import streamlit as st

import influence_core as ic

COLUMNS = 10


@st.cache_resource
def pictures(path: str, count: int) -> list[tuple[int, bytes]]:
    study = ic.Study.load(path)
    scores = ic.estimators.get("lastlayer").fit(study).mislabel_scores()
    ids = [int(i) for i in scores.top(k=count)["train_id"]]
    return [(i, ic.pictures.thumbnail(study.train, i, 96)) for i in ids]


if __name__ == "__main__":
    st.set_page_config(layout="wide")
    columns = st.columns(COLUMNS)
    for place, (index, picture) in enumerate(pictures(sys.argv[1], int(sys.argv[2]))):
        columns[place % COLUMNS].image(picture, caption=f"#{index}")
