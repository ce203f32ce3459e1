"""The app's server: ``streamlit run app.py``, or ``streamlit run app.py -- --study my/study.toml``."""

import os
import sys
from pathlib import Path

# Threads that wait without spinning: on a machine that does other work, spinning makes small models 30 times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import streamlit as st
from starlette.middleware import Middleware

PAGES = Path(__file__).parent / "pages"
sys.path.insert(0, str(PAGES))  # the pages and this server share one copy of what is loaded

from parts import arguments, errors, guard, thumbnails, work  # noqa: E402

arguments.given()  # what is wrong with them is said now, not to the first visitor
work.prepare()
app = st.App(
    PAGES / "main.py",
    routes=[thumbnails.route()],
    middleware=[Middleware(guard.Guard)],
    on_script_error=errors.unexpected,
)
