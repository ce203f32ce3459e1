"""The app's server: the command that starts it, and one that runs on its own for a notebook.

The app is no part of this package's imports: it is a script that Streamlit runs, beside the package in a checkout and
inside of it in a wheel.
"""

from __future__ import annotations

import getpass
import hashlib
import html
import importlib.util
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from influence_core.errors import InfluenceError, InvalidInput
from influence_core.files import write_whole
from influence_core.machine import cache_folder

_HERE = Path(__file__).parent
FIRST_PORT = 8501
"""Of the ports that are tried, Streamlit's own."""

_PORTS = 100
_children: dict[int, subprocess.Popen[bytes]] = {}
"""Servers that this process has started, which go on after it."""
_LINES = 12


def app_script() -> Path:
    """The script that Streamlit runs: in the installed package, or in a checkout beside it.

    Returns:
        Path of ``app.py``.

    Raises:
        InvalidInput: if the app is in neither place.
    """
    for folder in (_HERE / "_app", _HERE.parent):
        if (folder / "app.py").is_file() and (folder / "pages" / "main.py").is_file():
            return folder / "app.py"
    raise InvalidInput(
        f"the app is not installed with this package in {_HERE}: install the wheel, or an editable checkout "
        "(pip install -e .)"
    )


def free_port(first: int = FIRST_PORT) -> int:
    """A port of this machine that nobody listens at.

    Args:
        first: the first that is tried.

    Returns:
        The port.

    Raises:
        InvalidInput: if none of a hundred is free.
    """
    for port in range(first, min(first + _PORTS, 65536)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise InvalidInput(f"no port from {first} to {first + _PORTS - 1} is free: stop a server, or name another port")


def server_command(port: int, arguments: Sequence[str] = ()) -> list[str]:
    """What starts the app.

    Args:
        port: to listen at, on this machine alone.
        arguments: of the app itself: --study PATH, --root FOLDER, --host NAME, --plugin FILE.

    Returns:
        The command.

    Raises:
        InvalidInput: if Streamlit is not installed.
    """
    if importlib.util.find_spec("streamlit") is None:
        raise InvalidInput("the app needs Streamlit, which is not installed: pip install streamlit")
    settings = ["--server.headless=true", f"--server.port={port}", "--browser.gatherUsageStats=false"]
    return [sys.executable, "-m", "streamlit", "run", str(app_script()), *settings, "--", *arguments]


@dataclass(frozen=True)
class Link:
    """Where the app shows something; shows itself as a link in a notebook.

    Attributes:
        url: for a browser on this machine.
        pid: of the server.
        reused: whether the server was there already.
        tunnel: the ssh command to give on one's own machine, where this one is remote; else empty.
    """

    url: str
    pid: int
    reused: bool
    tunnel: str = ""

    def __str__(self) -> str:
        """The address, and the way to it from another machine."""
        return f"{self.url}\nfrom your own machine first: {self.tunnel}" if self.tunnel else self.url

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """A link."""
        way = f"<br>from your own machine first: <code>{html.escape(self.tunnel)}</code>" if self.tunnel else ""
        safe = html.escape(self.url, quote=True)
        return f'<a href="{safe}" target="_blank" rel="noopener">{safe}</a>{way}'

    def stop(self) -> None:
        """End the server."""
        _stop(self.pid)


def open_link(
    study: Path | None = None,
    page: str = "",
    query: Mapping[str, str] | None = None,
    plugin: Path | None = None,
    seconds: float = 60.0,
) -> Link:
    """Start a server that shows a study, or find the one that does, wait until it answers, and say where.

    Args:
        study: its ``study.toml``; the bundled one by default.
        page: "", "explain", "mislabels" or "relabel".
        query: what is chosen on it.
        plugin: Python file that the study needs, which its user has agreed to run.
        seconds: to wait for the first answer.

    Returns:
        The link.

    Raises:
        InfluenceError: if the server ends, or does not answer in time; with the last lines of its log.
    """
    state = cache_folder() / "servers" / f"{_key(study)}.json"
    content = "" if study is None else hashlib.sha256(study.read_bytes()).hexdigest()
    known = _alive(state)
    if known is not None and known["content"] != content:  # the study was saved anew: the server has the old one
        _stop(int(known["pid"]))
        known = None
    reused = known is not None
    if known is None:
        known = {**_started(study, plugin, seconds), "content": content}
        with suppress(OSError, InvalidInput):  # without a note the next call starts another one
            state.parent.mkdir(parents=True, exist_ok=True)
            write_whole(state, json.dumps(known).encode())
    chosen = {name: value for name, value in (query or {}).items() if value}
    port = int(known["port"])
    url = f"http://localhost:{port}/{page}" + (f"?{urlencode(chosen)}" if chosen else "")
    return Link(url, int(known["pid"]), reused, tunnel(port))


def tunnel(port: int) -> str:
    """The ssh command that brings a port here to one's own machine; empty where this is one's own machine."""
    connection = os.environ.get("SSH_CONNECTION", "").split()
    if len(connection) < 3 and "JUPYTERHUB_USER" not in os.environ:
        return ""
    host = connection[2] if len(connection) > 2 else platform.node()
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        user = "USER"
    return f"ssh -N -L {port}:localhost:{port} {user}@{host}"


def answers(port: int) -> bool:
    """Whether a Streamlit server answers at a port of this machine."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through somebody's proxy
    try:
        with opener.open(f"http://127.0.0.1:{port}/_stcore/health", timeout=5) as reply:
            return bool(reply.status == 200)
    except (OSError, urllib.error.URLError, ValueError):
        return False


def _key(study: Path | None) -> str:
    named = "demo" if study is None else str(study.resolve())
    return hashlib.sha256(f"{app_script()}|{sys.executable}|{named}".encode()).hexdigest()[:16]


def _alive(state: Path) -> dict[str, str] | None:
    """What is noted of a server, if it still answers."""
    try:
        known = json.loads(state.read_bytes())
        os.kill(int(known["pid"]), 0)
        return known if "content" in known and answers(int(known["port"])) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _started(study: Path | None, plugin: Path | None, seconds: float) -> dict[str, str]:
    port = free_port()
    arguments = [] if study is None else ["--study", str(study.resolve())]
    arguments += [] if plugin is None else ["--plugin", str(plugin.resolve())]
    folder = Path(tempfile.mkdtemp(prefix="influence-app-"))
    log = folder / "log.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            server_command(port, arguments),
            cwd=folder if study is None else study.resolve().parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        if answers(port):
            _children[process.pid] = process
            return {"pid": str(process.pid), "port": str(port)}
        time.sleep(0.1)
    ended = process.poll() is not None
    if not ended:
        process.kill()
        process.wait()
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-_LINES:]
    what = f"ended with code {process.returncode}" if ended else f"did not answer within {seconds:.0f} s"
    raise InfluenceError(f"the app's server {what}; the end of its log, {log}:\n" + "\n".join(said))


def _stop(pid: int) -> None:
    child = _children.pop(pid, None)
    with suppress(OSError):
        os.kill(pid, signal.SIGTERM)
    if child is not None:
        with suppress(subprocess.TimeoutExpired):
            child.wait(20)
