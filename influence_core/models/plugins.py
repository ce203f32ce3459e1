"""Plugins: a Python file beside a study that registers, or defines, the architecture of its model.

A plugin is code. It runs once somebody says that it may: ``load_plugin``, ``Study.load(path, trust=True)``, or
``--plugin`` of the app. Which file may run is known by its content: one that was changed has to be trusted anew.
"""

from __future__ import annotations

import hashlib
import sys
import threading
import traceback
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from influence_core.errors import InvalidInput
from influence_core.models.architectures import add_builders, collecting

_MOST_BYTES = 1 << 20
_DIGITS = 12
_lock = threading.RLock()
_loaded: dict[str, Plugin] = {}
_running: set[str] = set()


@dataclass(frozen=True, eq=False)
class Plugin:
    """A plugin that has run.

    Attributes:
        path: of the file.
        sha256: of its content.
        source: the content.
        module: what it became, under a name that no other plugin has.
        builders: what it registered, by name.
    """

    path: Path
    sha256: str
    source: bytes
    module: types.ModuleType
    builders: dict[str, Callable[..., nn.Module]]

    def named(self, architecture: str) -> str:
        """The name under which ``ic.models.build`` knows an architecture of this plugin.

        Args:
            architecture: a name that it registered; or of a class or function that it defines.

        Returns:
            The name, followed by ``@`` and the start of the SHA-256.

        Raises:
            InvalidInput: if it has none of that name.
        """
        full = f"{architecture}@{self.sha256[:_DIGITS]}"
        if architecture not in self.builders:
            found = vars(self.module).get(architecture)
            if not callable(found) or getattr(found, "__module__", None) != self.module.__name__:
                known = ", ".join(sorted(self.builders)) or "nothing"
                raise InvalidInput(
                    f"{self.path} has no architecture {architecture!r}; it registers {known}: decorate the class or "
                    f"function that makes the model with @ic.models.register({architecture!r})"
                )
            add_builders({full: found})
        return full


@dataclass(frozen=True)
class PluginFile:
    """A plugin as a study file names it, or is to name it; it has not run.

    Attributes:
        path: of the file.
        sha256: that the study file says; ``None`` where it says none.
        source: to write.
    """

    path: Path
    sha256: str | None
    source: bytes | None = None


def load_plugin(path: str | Path) -> Plugin:
    """Run a Python file that registers architectures, and make them known by their names.

    Studies that were saved with the same file open without ``trust`` from now on. A file with the same content runs
    once in a process.

    Args:
        path: of the file, ``something.py``.

    Returns:
        The plugin; its ``builders`` are what the file registered.

    Raises:
        InvalidInput: in one sentence, if there is no such file, or an error stops it.
    """
    plugin = run(path)
    add_builders(plugin.builders)
    return plugin


def run(path: str | Path, expected: str | None = None, trust: bool = True) -> Plugin:
    """Run a plugin; its names are known to those alone who ask ``Plugin.named``.

    Args:
        path: of the file.
        expected: SHA-256 that it has to have.
        trust: whether it may run if it has not run yet.

    Returns:
        The plugin.

    Raises:
        InvalidInput: if there is no such file, it is another one than expected, it may not run, or an error stops it.
    """
    path = Path(path)
    source = _read(path)
    digest = hashlib.sha256(source).hexdigest()
    if expected not in (None, digest):
        raise InvalidInput(
            f"{path} is not the file that the study was saved with (its SHA-256 differs): it was changed or exchanged. "
            "Copy it again; or, if it was meant, take the lines 'plugin_sha256', 'fingerprint' and 'checksum' out of "
            "the .toml"
        )
    with _lock:
        if digest not in _loaded:
            if not trust:
                raise InvalidInput(
                    f"the study in {path.parent} needs its plugin {path.name}, which is Python code that would run "
                    "here: read it, and then load the study with ic.Study.load(path, trust=True), give the command "
                    f"--trust, or start the app with --plugin {path}"
                )
            _loaded[digest] = _executed(path, digest, source)
        return _loaded[digest]


def carried(architecture: str) -> Plugin | None:
    """The plugin that an architecture's name speaks of, if it is from one."""
    start = architecture.partition("@")[2]
    return next((p for digest, p in _loaded.items() if digest[:_DIGITS] == start), None) if start else None


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise InvalidInput(f"there is no plugin {path}: it is a Python file that lies beside the study.toml")
    try:
        with path.open("rb") as file:
            source = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise InvalidInput(f"the plugin {path} cannot be read: {error.strerror or error}") from error
    if len(source) > _MOST_BYTES:
        raise InvalidInput(f"{path} is no plugin: it is larger than {_MOST_BYTES:,} bytes")
    return source


def _executed(path: Path, digest: str, source: bytes) -> Plugin:
    if digest in _running:
        raise InvalidInput(
            f"the plugin {path} needs itself, because it saves or loads a study with this very plugin while it is "
            "imported: move the model's class into a file of its own, and give that as the plugin"
        )
    module = types.ModuleType(f"influence_plugin_{digest[:_DIGITS]}")
    module.__file__ = str(path.resolve())
    builders: dict[str, Callable[..., nn.Module]] = {}
    sys.modules[module.__name__] = module  # where dataclasses and pickle look for it
    _running.add(digest)
    token = collecting.set((digest[:_DIGITS], builders))
    try:
        exec(compile(source, str(path), "exec", dont_inherit=True), vars(module))
    except (Exception, SystemExit) as error:  # whatever the code of others raises
        del sys.modules[module.__name__]
        raise InvalidInput(f"the plugin {path} was stopped by an error: {_where(error, path)}") from error
    finally:
        collecting.reset(token)
        _running.discard(digest)
    add_builders({f"{name}@{digest[:_DIGITS]}": builder for name, builder in builders.items()})
    return Plugin(path, digest, source, module, builders)


def _where(error: BaseException, path: Path) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    said = (error.msg if isinstance(error, SyntaxError) else str(error)).splitlines() or [""]
    return f"{type(error).__name__}: {said[0]}" + (f" (line {line})" if line else "")
