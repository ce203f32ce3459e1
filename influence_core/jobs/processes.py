"""Which process is it: its machine, its number, and when it began, so that another with the same number is none.

No clock is asked: the beginning is the kernel's own note of it, which stays as it is when a clock is set.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from influence_core.errors import NotSupported
from influence_core.machine import machine_name

_PROC = Path("/proc")
_BOOT = _PROC / "sys" / "kernel" / "random" / "boot_id"


def this() -> str:
    """The name of this process.

    Returns:
        As ``named`` gives it.

    Raises:
        NotSupported: on a system that does not tell when a process began.
    """
    found = named(os.getpid())
    if found is None:
        raise NotSupported(
            f"jobs need Linux or macOS, where it is known when a process began; this is {sys.platform}: ask in this "
            'process, ic.run(..., runner="local")'
        )
    return found


def named(pid: int) -> str | None:
    """The name of a process of this machine, ``machine/pid/beginning``.

    Args:
        pid: its number.

    Returns:
        The name; ``None`` where there is none, or it has ended and nobody has asked for its exit code.
    """
    began = _began_by_proc(pid) if _BOOT.is_file() else _began_by_ps(pid)
    return None if began is None else f"{machine_name()}/{pid}/{began}"


def alive(process: str) -> bool:
    """Whether a process still runs; one of another machine, of which nobody here can tell, counts as running.

    Args:
        process: from ``named``.

    Returns:
        Whether it does.
    """
    return not _is_here(process) or named(pid_of(process)) == process


def pid_of(process: str) -> int:
    """The number in a name."""
    return int(process.split("/")[1])


def kill(process: str) -> None:
    """End a process of this machine at once; not this one, and no other one that has got its number meanwhile."""
    if _is_here(process) and pid_of(process) != os.getpid() and named(pid_of(process)) == process:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid_of(process), signal.SIGKILL)


def _is_here(process: str) -> bool:
    return process.startswith(f"{machine_name()}/")


def _began_by_proc(pid: int) -> str | None:
    """Ticks since the machine started, and which start that was."""
    try:
        fields = (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()  # a name may hold anything
        boot = _BOOT.read_text().strip()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X", b"x") else f"{boot}:{fields[19].decode()}"


def _began_by_ps(pid: int) -> str | None:
    """The date that the kernel has noted."""
    try:
        words = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
        told = subprocess.run(words, capture_output=True, text=True, check=True, env={**os.environ, "LC_ALL": "C"})
    except (OSError, subprocess.CalledProcessError):
        return None
    state, *date = told.stdout.split()
    return None if state.startswith("Z") else "-".join(date)
