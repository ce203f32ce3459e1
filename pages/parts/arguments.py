"""What stands after ``streamlit run app.py --``."""

import argparse
import importlib
import sys
from functools import lru_cache
from pathlib import Path
from types import ModuleType

import influence_core as ic


def given() -> argparse.Namespace:
    """The arguments that the server was started with; elsewhere (uvicorn, a test) there are none.

    Returns:
        ``study`` (files), ``root`` (the folder whose studies may be opened from the browser), ``host`` (names that the
        server answers to, besides its own) and ``plugin``, whose modules are imported and whose files are run.
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
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        help="Python module to import first, or a .py file, looked for here and beside the studies; may be given again",
    )
    arguments = parser.parse_args(words)
    for word in arguments.plugin:
        refusal = _plugged(word, [study if study.is_dir() else study.parent for study in arguments.study])
        if refusal is not None:
            parser.error(refusal)
    return arguments


def _plugged(word: str, folders: list[Path]) -> str | None:
    """Import a plugin, or run it as a file; what is wrong with it, if it cannot."""
    try:
        module = _module(word)
    except (Exception, SystemExit) as error:  # whatever the code of others raises
        said = (str(error).splitlines() or [""])[0]
        return f"the plugin {word!r} was stopped by an error: {type(error).__name__}: {said}"
    name = word if word.endswith(".py") else f"{word}.py"
    files = [file for folder in (Path(), *folders) if (file := folder / name).is_file()]
    if module is not None:  # a study names it as the file beside it, which may run if it is the same
        own = Path(module.__file__ or "")
        files = [file for file in files if own.is_file() and file.read_bytes() == own.read_bytes()]
    elif not files:
        places = ", ".join(map(str, ("the current folder", *folders)))
        return f"there is no plugin {word!r}: it is no module that can be imported, and no file {name} is in {places}"
    try:
        for file in files[:1]:
            ic.models.load_plugin(file)
    except ic.InfluenceError as error:
        return str(error)
    return None


def _module(word: str) -> ModuleType | None:
    if word.endswith(".py") or any(mark in word for mark in "/\\"):
        return None
    try:
        return importlib.import_module(word)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{word}.".startswith(f"{error.name}."):
            raise  # it is there, and something that it imports is not
        return None


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
