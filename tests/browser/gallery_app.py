"""Serves ``gallery_page.py`` with the pictures of the app."""

import sys
from pathlib import Path

import streamlit as st

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "pages"))

from parts import thumbnails  # noqa: E402

app = st.App(HERE / "gallery_page.py", routes=[thumbnails.route()])
