"""The app's server: ``streamlit run app.py``, or ``streamlit run app.py -- --study my/study.toml``."""

import asyncio
import os
import sys
from pathlib import Path

# Threads that wait without spinning: on a machine that does other work, spinning makes small models 30 times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import streamlit as st
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

PAGES = Path(__file__).parent / "pages"
sys.path.insert(0, str(PAGES))  # the pages and this server share one copy of what is loaded

from parts import errors, studies  # noqa: E402


async def picture(request: Request) -> Response:
    """One thumbnail, named by the content of its dataset, so that a browser may keep it for ever."""
    parameters = request.path_params
    shown = await asyncio.to_thread(
        studies.thumbnail, parameters["data"], parameters["index"], int(request.query_params.get("size", "96"))
    )
    if shown is None:
        return PlainTextResponse("no such picture", status_code=404)
    forever = {"Cache-Control": "public, max-age=31536000, immutable"}
    return Response(shown, media_type="image/webp", headers=forever)


app = st.App(
    PAGES / "main.py",
    routes=[Route("/api/picture/{data}/{index:int}.webp", picture)],
    on_script_error=errors.unexpected,
)
