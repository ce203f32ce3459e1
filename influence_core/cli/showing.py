"""``app``."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from influence_core.cli.console import as_json, result, say
from influence_core.errors import InfluenceError, InvalidInput
from influence_core.serving import answers, free_port, open_link, server_command, tunnel
from influence_core.study_file import toml_path

WAIT = 90.0
"""Seconds until the first answer, on a slow machine."""


def show(
    studies: list[str],
    port: int | None,
    root: Path | None,
    hosts: list[str],
    plugins: list[str],
    background: bool,
    as_facts: bool,
) -> None:
    """Run the app until Ctrl-C, or start it in the background.

    Args:
        studies: paths, or "demo".
        port: to listen at.
        root: folder whose studies may be opened from the browser.
        hosts: names of this server.
        plugins: files and modules to run first.
        background: return once it answers.
        as_facts: print JSON.

    Raises:
        InvalidInput: if a study is missing, or options do not go together.
        InfluenceError: if the server ends by itself.
    """
    paths = [toml_path(Path(name).expanduser()) for name in studies if name != "demo" or Path(name).exists()]
    for path in paths:
        if not path.is_file():
            raise InvalidInput(f"there is no study {path}: influence new makes one, and Study.save writes one")
    if background:
        if len(paths) > 1 or port is not None or root is not None or hosts or len(plugins) > 1:
            raise InvalidInput("--background takes one study, and no --port, --root or --host")
        link = open_link(paths[0] if paths else None, plugin=Path(plugins[0]) if plugins else None, seconds=WAIT)
        facts = {"url": link.url, "pid": link.pid, "reused": link.reused, "tunnel": link.tunnel}
        as_json(facts) if as_facts else result(str(link))
        return
    chosen = free_port() if port is None else port
    arguments = [word for path in paths for word in ("--study", str(path.resolve()))]
    arguments += ["--root", str(root)] if root is not None else []
    arguments += [word for host in hosts for word in ("--host", host)]
    arguments += [word for plugin in plugins for word in ("--plugin", plugin)]
    former = signal.signal(signal.SIGTERM, _end)  # or the server would outlive a command that is ended
    process = subprocess.Popen(server_command(chosen, arguments), stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + WAIT
        while process.poll() is None and not answers(chosen) and time.monotonic() < end:
            time.sleep(0.1)
        if process.poll() is None:
            url, way = f"http://localhost:{chosen}", tunnel(chosen)
            facts = {"url": url, "pid": os.getpid(), "reused": False, "tunnel": way}
            if as_facts:
                as_json(facts)
            else:
                result(url + (f"\nfrom your own machine first: {way}" if way else ""))
                say("Ctrl-C ends it")
        code = process.wait()
        if code not in (0, -signal.SIGINT, -signal.SIGTERM, 130):
            raise InfluenceError(f"the app's server ended with code {code}; what it said is above")
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(20)
        signal.signal(signal.SIGTERM, former)


def _end(*_: object) -> None:
    raise KeyboardInterrupt
