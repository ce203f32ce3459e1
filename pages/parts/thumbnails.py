"""The route behind ``studies.picture_url``: an answer to every request, whatever it asks for."""

import asyncio
import logging
import re
from concurrent.futures import ThreadPoolExecutor

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from parts import studies

log = logging.getLogger("influence")
_threads = ThreadPoolExecutor(2, "pictures")  # a page full of pictures leaves the other threads and cores to the app
_FOREVER = {"Cache-Control": "public, max-age=31536000, immutable"}


def route() -> Route:
    """Where pictures are found, below the path that the app is served under."""
    return Route(f"{studies.picture_base()}/{{data}}/{{file}}", picture)


async def picture(request: Request) -> Response:
    """One thumbnail, named by the content of its dataset, so that a browser may keep it for ever.

    Args:
        request: with ``data`` and ``file`` in its path, and ``size`` in its query.

    Returns:
        A WEBP file, or one line that says why there is none.
    """
    size = next((side for side in studies.SIZES if str(side) == request.query_params.get("size")), None)
    if size is None:
        return PlainTextResponse(f"size has to be one of {', '.join(map(str, studies.SIZES))}\n", 400)
    data, file = request.path_params["data"], request.path_params["file"]
    index = re.fullmatch(r"([0-9]{1,18})\.webp", file)  # what fits into 64 bits
    if index is None:
        return PlainTextResponse("no such picture\n", 404)
    try:
        loop = asyncio.get_running_loop()
        shown = await loop.run_in_executor(_threads, studies.thumbnail, data, int(index[1]), size)
    except Exception as error:
        log.error("picture %s of dataset %r failed: %s: %r", index[1], data, type(error).__name__, str(error))
        return PlainTextResponse("this picture cannot be shown; the server's log says why\n", 500)
    if shown is None:
        return PlainTextResponse("no such picture\n", 404)
    return Response(shown, media_type="image/webp", headers=_FOREVER)
