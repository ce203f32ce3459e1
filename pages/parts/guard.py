"""What every request and every response of the server passes: the name it was called by, and what browsers are told."""

import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit import config

from parts import arguments

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "frame-ancestors 'self'",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "same-origin",
}
"""On every response: a file is what it says it is, no other site frames the app or learns which study is open."""

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:/@?#\s]+)(:[0-9]{1,5})?", re.IGNORECASE)


class Guard:
    """ASGI middleware around everything, websocket and static files included.

    It refuses a request that calls the server by a foreign name. A web site may let its own name point here (DNS
    rebinding): its pages then count as the server's own in the eyes of the browser, and of any check of ``Origin``.

    Args:
        app: what answers the requests that pass.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.names = _names()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        started = False

        async def marked(message: Message) -> None:
            nonlocal started
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                started = True
                message.setdefault("headers", [])
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if not self._knows(Headers(scope=scope).getlist("host")):
            refusal = (
                "This server does not answer to the name that it was called by. Whoever runs it can allow the name: "
                "streamlit run app.py -- --host NAME\n"
            )
            await PlainTextResponse(refusal, status_code=400)(scope, receive, marked)
            return
        try:
            await self.app(scope, receive, marked)
        except Exception:
            if scope["type"] == "http" and not started:
                await PlainTextResponse("Something went wrong; the server's log has it.\n", 500)(scope, receive, marked)
            raise  # for the log

    def _knows(self, hosts: list[str]) -> bool:
        if "*" in self.names:
            return True
        return len(hosts) == 1 and _HOST.fullmatch(hosts[0]) is not None and _bare(hosts[0]) in self.names


def _names() -> set[str]:
    """The names this server answers to."""
    configured = [config.get_option("server.address"), config.get_option("browser.serverAddress")]
    hosts = [str(address).partition("//")[2] or str(address) for address in configured if address]
    return {
        _bare(name.partition("/")[0]) for name in ("localhost", "127.0.0.1", "::1", *hosts, *arguments.given().host)
    }


def _bare(host: str) -> str:
    """A name in lower case, without its port and the brackets of IPv6."""
    found = _HOST.fullmatch(host)
    return (found[1] if found else host).strip("[]").lower()
