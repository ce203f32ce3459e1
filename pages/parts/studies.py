"""The studies that this server has open. They are shared by all browser tabs and never changed."""

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

from streamlit import config

import influence_core as ic
from parts import arguments

SIZES = (64, 96, 192, 384)
"""Sides of the thumbnails that may be asked for, in pixels."""


@dataclass(frozen=True)
class Source:
    """Where a study comes from.

    Attributes:
        load: makes or reads it.
        code: the Python expression that does the same.
        file: its ``study.toml``, where it is in one.
    """

    load: Callable[[], ic.Study]
    code: str
    file: Path | None = None


_DEMOS = {
    "digits": Source(lambda: ic.demo.digits(), "ic.demo.digits()", ic.demo.BUNDLED / "study.toml"),
    "digits-40": Source(lambda: ic.demo.digits(noise=0.4), "ic.demo.digits(noise=0.4)"),
}
_MOST_SHOWN = 80
_MOST_BYTES = 1 << 20
_OF_OURS = [
    re.compile(rb"^[ \t]*" + line, re.MULTILINE)
    for line in (rb"version[ \t]*=[ \t]*[123]\b", rb"\[[ \t]*model[ \t]*\]", rb"(architecture|weights)[ \t]*=")
]
_lock = threading.RLock()  # of the four tables below; never held while files are read
_loading = threading.RLock()
_sources: dict[str, Source] = {}
_studies: dict[str, ic.Study] = {}
_datasets: dict[str, ic.data.LabelledDataset] = {}
_blank: set[str] = set()


def sources() -> dict[str, Source]:
    """Every study that can be chosen, by its name in the URL; those of the command line come first, broken or not."""
    with _lock:
        if not _sources:
            for path in arguments.given().study:
                _listed(path / "study.toml" if path.is_dir() else path)
            _sources.update(_DEMOS)
        return dict(_sources)


def default() -> str:
    """The name of the study to begin with where the URL names none."""
    return next(iter(sources()))


def add(path: str) -> str:
    """Open a study file that a browser asked for, and make it choosable.

    Args:
        path: ``study.toml``, or the folder it lies in, in the folder that this server may open (``--root``).

    Returns:
        Its name in the URL.

    Raises:
        InvalidInput: if there is no study in that folder, in the same words whatever else may be there; or what is
            wrong with a study that is.
    """
    root = arguments.given().root
    refusal = (
        f"there is no study at {path[:_MOST_SHOWN]!r}{'…' * (len(path) > _MOST_SHOWN)} in the folder that this server "
        f"may open, {root}. Save one there with Study.save, or choose another folder by starting the server with "
        "influence app --root FOLDER."
    )
    file = _inside(root, path)
    if file is None:
        raise ic.InvalidInput(refusal)
    with _loading:
        key = next((k for k, s in sources().items() if s.code == _code(file)), None)
        if key is not None:
            return key
        try:
            loaded = ic.Study.load(file)
            data = _pictured(loaded)
        except ic.InfluenceError as error:
            raise (error if _is_ours(file) else ic.InvalidInput(refusal)) from None
        key = _listed(file)
        _keep(key, loaded, data)
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
    known = sources()
    if key not in known:
        raise ic.InvalidInput(
            f"this server has no study {key!r} open. Choose another, or start the server with "
            "streamlit run app.py -- --study path/to/study.toml."
        )
    if key not in _studies:
        with _loading:
            if key not in _studies:
                loaded = known[key].load()
                _keep(key, loaded, _pictured(loaded))
    return _studies[key]


def is_loaded(key: str) -> bool:
    """Whether ``study(key)`` returns at once."""
    return key in _studies


def named(file: Path, fingerprint: str) -> str | None:
    """The study that another process has opened from a file.

    Args:
        file: its ``study.toml``.
        fingerprint: of the study.

    Returns:
        Its name in the URL, or ``None`` where this server has it not.
    """
    known = sources()
    for key in known:
        if key in _studies and _studies[key].fingerprint == fingerprint:
            return key
    return next(
        (key for key, one in known.items() if key not in _studies and one.file and one.file.resolve() == file), None
    )


def is_blank(key: str) -> bool:
    """Whether the samples of a study that is loaded have no pictures to show."""
    return key in _blank


def picture_url(data: ic.data.LabelledDataset, index: int, size: int = 96) -> str:
    """Where the browser finds the thumbnail of a sample.

    Args:
        data: a dataset of a study that is open here.
        index: sample id.
        size: of the longer side, in pixels.

    Returns:
        A path on this server.
    """
    return f"{quote(picture_base())}/{data.fingerprint[:16]}/{int(index)}.webp?size={size}"


def picture_base() -> str:
    """The path on this server below which the thumbnails are, without quoting."""
    base = str(config.get_option("server.baseUrlPath") or "").strip("/")
    return f"/{base}/api/picture" if base else "/api/picture"


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


def _listed(file: Path) -> str:
    """The name of a study file in the URL; a new one is given a name that is free."""
    with _lock:
        key = next((k for k, s in _sources.items() if s.code == _code(file)), None)
        if key is None:
            stem = file.parent.name or "study"
            names = (stem, *(f"{stem}-{n}" for n in range(2, 1000)))
            key = next(name for name in names if name not in _sources | _DEMOS)
            _sources[key] = Source(lambda: ic.Study.load(file), _code(file), file)
        return key


def _keep(key: str, loaded: ic.Study, data: dict[str, ic.data.LabelledDataset]) -> None:
    blank = _has_no_picture(loaded.train)
    with _lock:
        _datasets.update(data)
        _blank.discard(key)
        _blank.update([key] if blank else [])
        _studies[key] = loaded


def _has_no_picture(data: ic.data.LabelledDataset) -> bool:
    try:
        data.picture(0)
    except ic.NotSupported:
        return True
    return False


def _pictured(loaded: ic.Study) -> dict[str, ic.data.LabelledDataset]:
    """The datasets whose pictures the pages show, by the start of their fingerprints; every sample is read once."""
    if loaded.classes is None:
        label = loaded.train.label_text(0)
        raise ic.NotSupported(
            f"the app shows what a classifier got wrong, and the labels of the study {loaded.name!r} are no classes "
            f"(the first is {label[:_MOST_SHOWN]}): ask for its influence and self-influence in Python, "
            "ic.estimators.TracIn().fit(study).influence()"
        )
    return {data.fingerprint[:16]: data for data in (loaded.split("train"), loaded.split("test"))}


def _inside(root: Path, path: str) -> Path | None:
    """The study file that a path means, or ``None`` if there is none inside of ``root``, once links are followed."""
    try:
        file = (root / Path(path).expanduser()).resolve(strict=True)
        if file.is_relative_to(root) and file.is_dir():
            file = (file / "study.toml").resolve(strict=True)
        return file if file.is_relative_to(root) and file.is_file() else None
    except (OSError, RuntimeError, ValueError):  # missing, unreadable, too long; a loop or no such user; NUL
        return None


def _is_ours(file: Path) -> bool:
    """Whether a file has the lines that every study file has, so that what is wrong with it may be said."""
    try:
        with file.open("rb") as opened:
            start = opened.read(_MOST_BYTES)
    except OSError:
        return False
    return all(line.search(start) for line in _OF_OURS)
