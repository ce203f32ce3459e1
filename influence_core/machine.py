"""The machine and its user: its name, the memory that is free, the disk that is free, where caches are kept."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from pathlib import Path

CACHE = "INFLUENCE_CACHE"
"""Environment variable that names another folder for what is kept between runs."""

CROWDED = 1.25
"""Programs that want each processor, on the average of a minute, above which times are not those of a free machine."""

_MEMORY = Path("/proc/meminfo")
_LIMITS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)


def machine_name() -> str:
    """The machine's name, in characters that a file name may have."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", platform.node()).strip("-.") or "machine"


def busy() -> bool:
    """Whether more programs want the processors than there are, so that threads wait for each other and times swell."""
    try:
        return os.getloadavg()[0] > CROWDED * (os.cpu_count() or 1)
    except (AttributeError, OSError):  # a system that does not tell
        return False


def cache_folder() -> Path:
    """Where this package keeps what it can make again, by the custom of the system; it need not exist."""
    named = os.environ.get(CACHE)
    if named:
        return Path(named)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "influence-core"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "influence-core"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "influence-core"


def free_memory_mib() -> float | None:
    """Memory that is free for this process, in MiB; ``None`` where the system does not tell."""
    found = [value for value in (_available(), *(_left(*files) for files in _LIMITS)) if value is not None]
    return min(found) if found else None


def free_disk_mib(folder: Path) -> float | None:
    """Disk that is free where a folder lies or will lie, in MiB; ``None`` where the system does not tell."""
    there = next((p for p in (folder.absolute(), *folder.absolute().parents) if p.exists()), None)
    try:
        return None if there is None else shutil.disk_usage(there).free / 2**20
    except OSError:
        return None


def _available() -> float | None:
    try:
        lines = _MEMORY.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _left(limit: Path, used: Path) -> float | None:
    try:
        left = int(limit.read_text()) - int(used.read_text())
        kept = [line.split() for line in used.with_name("memory.stat").read_text().splitlines()]
        spare = sum(int(number) for name, number in kept if name == "inactive_file")
        return (left + min(spare, int(used.read_text()))) / 2**20  # files that were read are given up for it
    except (OSError, ValueError):  # no such file, or "max"
        return None
