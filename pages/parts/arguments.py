"""What stands after ``streamlit run app.py --``."""

import argparse
import importlib
import sys
from functools import lru_cache
from pathlib import Path


def given() -> argparse.Namespace:
    """The arguments that the server was started with; elsewhere (uvicorn, a test) there are none.

    Returns:
        ``study`` (files), ``root`` (the folder whose studies may be opened from the browser), ``host`` (names that the
        server answers to, besides its own) and ``plugin``, whose modules are imported.
    """
    return _parsed(tuple(sys.argv[1:]) if Path(sys.argv[0]).name == "app.py" else ())


@lru_cache
def _parsed(words: tuple[str, ...]) -> argparse.Namespace:
    # a misspelt --root must not open the folder that happens to be the current one, so nothing unknown is let through
    parser = argparse.ArgumentParser(prog="streamlit run app.py --", allow_abbrev=False)
    parser.add_argument(
        "--study", action="append", default=[], type=_path, help="path of a study.toml; may be given again"
    )
    parser.add_argument(
        "--root", default=".", type=_folder, help="the folder whose studies may be opened from the browser; default: ."
    )
    parser.add_argument(
        "--host",
        action="append",
        default=[],
        help="a name that browsers may call this server by; may be given again; '*' for any, behind a proxy",
    )
    parser.add_argument("--plugin", action="append", default=[], help="Python module to import first")
    arguments = parser.parse_args(words)
    for module in arguments.plugin:
        importlib.import_module(module)
    return arguments


def _path(word: str) -> Path:
    try:
        return Path(word).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{word!r} is no path: {error}") from error


def _folder(word: str) -> Path:
    folder = _path(word)
    if not folder.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {word!r}")
    return folder
