"""The studies that this server has open. They are shared by all browser tabs and never changed."""

import argparse
import importlib
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

from streamlit import config

import influence_core as ic

SIZES = (64, 96, 192, 384)
"""Sides of the thumbnails that may be asked for, in pixels."""


@dataclass(frozen=True)
class Source:
    """Where a study comes from.

    Attributes:
        load: makes or reads it.
        code: the Python expression that does the same.
    """

    load: Callable[[], ic.Study]
    code: str


_DEMOS = {
    "digits": Source(lambda: ic.demo.digits(), "ic.demo.digits()"),
    "digits-40": Source(lambda: ic.demo.digits(noise=0.4), "ic.demo.digits(noise=0.4)"),
}
_lock = threading.RLock()
_sources: dict[str, Source] = {}
_studies: dict[str, ic.Study] = {}
_datasets: dict[str, ic.data.LabelledDataset] = {}


def sources() -> dict[str, Source]:
    """Every study that can be chosen, by its name in the URL; those of the command line come first."""
    with _lock:
        if not _sources:
            for path in _arguments().study:
                add(path)
            _sources.update(_DEMOS)
        return dict(_sources)


def add(path: str) -> str:
    """Make a study file choosable.

    Args:
        path: ``study.toml``, or the folder it lies in.

    Returns:
        Its name in the URL.
    """
    file = Path(path).expanduser().resolve()
    file = file / "study.toml" if file.is_dir() else file
    key = next((k for k, s in _sources.items() if s.code == _code(file)), None)
    if key is None:
        stem = file.parent.name or "study"
        key = next(k for k in (stem, *(f"{stem}-{n}" for n in range(2, 1000))) if k not in _sources | _DEMOS)
        _sources[key] = Source(lambda: ic.Study.load(file), _code(file))
    return key


def study(key: str) -> ic.Study:
    """Load a study once for all tabs.

    Args:
        key: its name in the URL.

    Returns:
        The study.

    Raises:
        InvalidInput: if no such study is open here, or its files are broken.
    """
    with _lock:
        known = sources()
        if key not in known:
            raise ic.InvalidInput(
                f"this server has no study {key!r} open. Choose another, or start the server with "
                "streamlit run app.py -- --study path/to/study.toml."
            )
        if key not in _studies:
            loaded = known[key].load()
            for split in ("train", "test"):
                data = loaded.split(split)
                _datasets[data.fingerprint[:16]] = data
            _studies[key] = loaded
        return _studies[key]


def is_loaded(key: str) -> bool:
    """Whether ``study(key)`` returns at once."""
    return key in _studies


def picture_url(data: ic.data.LabelledDataset, index: int, size: int = 96) -> str:
    """Where the browser finds the thumbnail of a sample.

    Args:
        data: a dataset of a study that is open here.
        index: sample id.
        size: of the longer side, in pixels.

    Returns:
        A path on this server.
    """
    base = str(config.get_option("server.baseUrlPath") or "").strip("/")
    prefix = f"/{quote(base)}" if base else ""
    return f"{prefix}/api/picture/{data.fingerprint[:16]}/{int(index)}.webp?size={size}"


def thumbnail(data_key: str, index: int, size: int) -> bytes | None:
    """The bytes behind ``picture_url``.

    Args:
        data_key: the start of a dataset's fingerprint.
        index: sample id.
        size: one of ``SIZES``.

    Returns:
        A WEBP file, or ``None`` if there is no such picture.
    """
    data = _datasets.get(data_key)
    if data is None or not 0 <= index < len(data) or size not in SIZES:
        return None
    try:
        return _encoded(data_key, index, size)
    except ic.InfluenceError:
        return None


@lru_cache(maxsize=20_000)
def _encoded(data_key: str, index: int, size: int) -> bytes:
    return ic.pictures.thumbnail(_datasets[data_key], index, size)


def _code(file: Path) -> str:
    return f"ic.Study.load({str(file)!r})"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="streamlit run app.py --")
    parser.add_argument("--study", action="append", default=[], help="path of a study.toml; may be given again")
    parser.add_argument("--plugin", action="append", default=[], help="Python module to import first")
    arguments, _ = parser.parse_known_args(sys.argv[1:])
    for module in arguments.plugin:
        importlib.import_module(module)
    return arguments
