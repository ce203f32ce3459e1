"""What a value is, as text that is equal for equal things: of data, of code, and of models.

Fingerprints are made of it. Two functions are the same if their compiled code, their defaults, what they close over
and the globals that they use are the same; two objects, if their classes and attributes are. No address and no
``hash()`` goes in, so that another process finds the same. What cannot be compared (compiled extensions, open files)
is said instead of being passed over. Compiled code differs between versions of Python, and so do these texts.
"""

from __future__ import annotations

import copyreg
import dis
import enum
import functools
import hashlib
import logging
import threading
import types
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from influence_core.errors import NotSupported
from influence_core.known_code import (
    arguments_of,
    as_written,
    globals_used,
    imported_inside,
    known_by_name,
    made_by_dataclass,
    of_a_package,
    version_of,
)

_INERT = (logging.Logger, logging.LoggerAdapter, type(threading.Lock()), type(threading.RLock()))
"""Classes of things that change no number."""

_OF_MODULES = frozenset(vars(nn.Module())) | {"architecture", "built_as", "_built_by_influence_core"}
"""Attributes that every module has, or that ``ic.models.build`` puts on one (the first two did it once)."""

_OF_CLASSES = {
    "__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__hash__", "__slotnames__",
    "__match_args__", "__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__",
    "__conditional_annotations__", "__firstlineno__", "__static_attributes__", "__parameters__", "__orig_bases__",
    "__abstractmethods__", "__dataclass_fields__", "__dataclass_params__", "_abc_impl", "_backward_cls",
}  # fmt: skip
"""Attributes of a class that say nothing about what it does."""


_HAS_DOCSTRING = 0x4000000
"""A flag of code since Python 3.13."""


class Identity(NamedTuple):
    """What ``identify`` found.

    Attributes:
        sha256: of the text.
        unknown: a sentence for each part that could not be compared.
    """

    sha256: str
    unknown: tuple[str, ...]


def identify(
    value: Any, what: str, tensors: bool = True, passing: Mapping[int, Collection[str]] | None = None
) -> Identity:
    """Who a value is.

    A text attribute ``identity`` of a function, class or object is taken as its owner's word for what cannot be
    compared in it.

    Args:
        value: data, a function, an object or a model.
        what: its name, for the sentences about what is unknown.
        tensors: whether the numbers in a module's parameters and persistent buffers count, or only their names.
        passing: ``id`` of a module -> its attributes that every pass makes anew, which do not count.

    Returns:
        The same for equal values, in every process with this version of Python.
    """
    reader = _Reader(what, tensors, passing or {})
    try:
        text = reader.text(value)
    except RecursionError:
        text = "nested"
        reader.unknown.append(f"{what} is nested too deeply to be compared")
    return Identity(hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(), tuple(reader.unknown))


def add_tensor(digest: Any, tensor: Tensor) -> None:
    """Add the kind of number, the shape and the bytes of a tensor to a hash.

    Args:
        digest: from ``hashlib``.
        tensor: any strided tensor.
    """
    digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    digest.update(bytes_of(tensor))


def bytes_of(tensor: Tensor) -> memoryview:
    """The numbers of a tensor as they lie in memory, row by row; copied only if they lie otherwise.

    Args:
        tensor: any strided tensor.

    Returns:
        Its bytes.
    """
    tensor = tensor.detach().cpu().contiguous().resolve_conj().resolve_neg()
    return tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else memoryview(b"")


def check_identified(unknown: Sequence[str], what: str) -> None:
    """Refuse to save what belongs to a study that nobody could recognise.

    Args:
        unknown: a sentence for each part that could not be compared.
        what: is to be saved.

    Raises:
        NotSupported: if there is any.
    """
    if unknown:
        raise NotSupported(
            f"{what} cannot be saved, because it could not be told later what it belongs to: {'; '.join(unknown)}. "
            "Give it a name: an attribute identity = 'what it is, and which version' on the function, class or object; "
            "a model may also be registered with @ic.models.register(name) and made with ic.models.build"
        )


def qualified_name(value: Any) -> str:
    """Module and name of a function, or of an object's class."""
    kind = value if hasattr(value, "__qualname__") else type(value)
    return f"{kind.__module__}.{kind.__qualname__}"


class _Reader:
    """Goes through a value and writes it down."""

    def __init__(self, what: str, tensors: bool, passing: Mapping[int, Collection[str]]) -> None:
        self.unknown: list[str] = []
        self._tensors = tensors
        self._passing = passing
        self._path = [what]
        self._active: dict[int, int] = {}  # what is being written, and how deep: a way to end a circle
        self._done: dict[int, str] = {}
        self._kept: list[Any] = []  # no id may come twice while this reader lives

    def text(self, value: Any) -> str:
        value = as_written(value)
        if value is None or value is Ellipsis or type(value) in (bool, str, bytes, int, float, complex):
            return f"{type(value).__name__} {value!r}"
        if isinstance(value, (torch.dtype, torch.device, torch.memory_format, torch.layout)):
            return str(value)
        if id(value) in self._active:
            return f"the one {len(self._active) - self._active[id(value)]} above"
        if id(value) not in self._done:
            self._kept.append(value)
            self._active[id(value)] = len(self._active)
            self._done[id(value)] = self._named(value)
            del self._active[id(value)]
        return self._done[id(value)]

    def _named(self, value: Any) -> str:
        """The text of a value, with its owner's word for what cannot be compared, if there is one."""
        before = len(self.unknown)
        text = self._written(value)
        word = _word(value)
        if word is not None and len(self.unknown) > before:
            del self.unknown[before:]
            return f"{text} called {word!r}"
        return text

    def _written(self, value: Any) -> str:
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, np.ndarray):
            content = (
                self.text(value.tolist()) if value.dtype.hasobject else hashlib.sha256(value.tobytes()).hexdigest()
            )
            return f"array {value.dtype} {value.shape} {content}"
        if isinstance(value, np.generic):
            return f"{value.dtype} {value!r}"
        if isinstance(value, (set, frozenset)):
            return f"{type(value).__name__} {{{', '.join(sorted(self.text(v) for v in value))}}}"
        if type(value) in (list, tuple, torch.Size):
            return f"{type(value).__name__} [{', '.join(self.text(v) for v in value)}]"
        if type(value) in (dict, types.MappingProxyType):
            return self._pairs(value)
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.CodeType):
            return self._code(value)
        if isinstance(value, types.MethodType):
            return f"method {self.text(value.__func__)} of {self.text(value.__self__)}"
        if isinstance(value, types.ModuleType):
            return self._module_of_code(value)
        if isinstance(value, functools.partial):
            return f"partial {self.text(value.func)} {self.text(list(value.args))} {self.text(dict(value.keywords))}"
        if isinstance(value, nn.Module):
            return self._model(_uncompiled(value))
        if isinstance(value, enum.Enum):
            return f"{type(value).__name__}.{value.name}"
        if isinstance(value, Path):
            return f"path {value.as_posix()!r}"
        if isinstance(value, _INERT):
            return type(value).__name__
        return self._descriptor(value) or self._object(value)

    def _tensor(self, value: Tensor) -> str:
        if value.layout != torch.strided or value.is_quantized or value.device.type == "meta":
            return self._cannot(f"a {value.layout} tensor on {value.device}", f"tensor {tuple(value.shape)}")
        digest = hashlib.sha256()
        add_tensor(digest, value)
        return f"tensor {digest.hexdigest()}"

    def _pairs(self, value: Mapping[Any, Any]) -> str:
        with_names = []
        for key, inner in value.items():
            with self._inside(f"{_shown(key)} of {self._path[-1]}"):
                with_names.append(f"{self.text(key)}: {self.text(inner)}")
        return f"{{{', '.join(with_names)}}}"

    def _attributes(self, value: Mapping[str, Any]) -> str:
        return self._pairs({name: value[name] for name in sorted(value)})

    def _descriptor(self, value: Any) -> str | None:
        """The text of what stands in a class around a function, and of functions that are not written in Python."""
        if isinstance(value, (staticmethod, classmethod)):
            return f"{type(value).__name__} {self.text(value.__func__)}"
        if isinstance(value, property):
            return f"property {self.text([value.fget, value.fset, value.fdel])}"
        if isinstance(value, functools.cached_property):
            return f"cached {self.text(value.func)}"
        if isinstance(value, (types.MemberDescriptorType, types.GetSetDescriptorType)):
            return "slot"
        if isinstance(value, (types.BuiltinFunctionType, types.WrapperDescriptorType, types.MethodDescriptorType)):
            return self._builtin(value)
        wrapped = getattr(value, "__wrapped__", None)
        if callable(wrapped) and type(value).__module__ == "functools":  # lru_cache
            return f"wrapped {self.text(wrapped)}"
        return None

    def _builtin(self, value: Any) -> str:
        owner = getattr(value, "__self__", None)
        home = getattr(value, "__module__", None) or ""
        if isinstance(owner, type):
            home = owner.__module__
        elif isinstance(owner, types.ModuleType):
            home = owner.__name__
        elif owner is not None:
            return f"method {value.__name__} of {self.text(owner)}"
        elif hasattr(value, "__objclass__"):
            home = value.__objclass__.__module__
        if known_by_name(home):
            return f"builtin {value.__qualname__}"
        return self._cannot(f"the compiled function {home}.{value.__name__}", f"builtin {home}.{value.__qualname__}")

    def _function(self, value: types.FunctionType) -> str:
        if known_by_name(value.__module__) and "<" not in value.__qualname__:
            return f"function {value.__module__}.{value.__qualname__}"
        cells = {}
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            try:
                cells[name] = cell.cell_contents
            except ValueError:  # not filled yet
                cells[name] = "empty"
        parts = [
            self.text(value.__code__),
            self.text(value.__defaults__),
            self.text(value.__kwdefaults__),
            self._attributes({n: v for n, v in cells.items() if n != "__class__"}),
            self._attributes(self._globals(value)),
            self._attributes(vars(value)),
        ]
        return f"function ({', '.join(parts)})"

    def _globals(self, value: types.FunctionType) -> dict[str, Any]:
        for package in imported_inside(value.__code__):
            self._cannot(f"what it imports from {package} while it runs", "")
        return dict(globals_used(value.__code__, value.__globals__))

    def _code(self, code: types.CodeType) -> str:
        """Steps and the constants they load; docstrings, which no step loads, move neither."""
        steps, constants = [], []
        for step in dis.get_instructions(code):
            loads = step.opcode in dis.hasconst
            steps.append((step.opcode, None if loads else step.arg))
            constants += [step.argval] if loads else []
        flags = code.co_flags & ~_HAS_DOCSTRING
        parts = [repr(steps), code.co_exceptiontable, flags, code.co_names, code.co_varnames]
        counts = [code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_freevars, code.co_cellvars]
        return f"code {self.text([*parts, *counts])} {self.text(constants)}"

    def _module_of_code(self, value: types.ModuleType) -> str:
        if of_a_package(value.__name__):
            return f"package {value.__name__} {version_of(value.__name__)}"
        return self._cannot(f"the whole module {value.__name__}", f"package {value.__name__}")

    def _class(self, cls: type) -> str:
        if known_by_name(cls.__module__) and "<" not in cls.__qualname__:
            return f"class {cls.__module__}.{cls.__qualname__}"
        if not cls.__flags__ & (1 << 9):  # no heap type: compiled
            return self._cannot(f"the compiled class {cls.__module__}.{cls.__qualname__}", f"class {cls.__qualname__}")
        own = {
            name: value
            for name, value in ((name, as_written(value)) for name, value in vars(cls).items())
            if name not in _OF_CLASSES and not made_by_dataclass(name, value) and (name != "__init__" or value)
        }
        bases = ", ".join(self.text(base) for base in cls.__bases__)
        with self._inside(f"the class {cls.__qualname__} ({self._path[0]})"):
            return f"class {cls.__name__} ({bases}) {self._attributes(own)}"

    def _model(self, value: nn.Module) -> str:
        cls = type(value)
        if isinstance(value, torch.jit.ScriptModule):
            return self._cannot("a scripted module", "scripted module")
        passing = self._passing.get(id(value), ())
        state = {name: v for name, v in vars(value).items() if name not in _OF_MODULES and name not in passing}
        if known_by_name(cls.__module__):
            state = arguments_of(cls, state)
        if isinstance(value, torch.fx.GraphModule):
            state["code"] = str(value.code)
        for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
            if getattr(value, hooks):
                state[hooks] = list(getattr(value, hooks).values())
        held = value._non_persistent_buffers_set
        tensors = {
            name: ("numbers" if tensor is not None and not self._tensors and name not in held else tensor)
            for name, tensor in {**value._parameters, **value._buffers}.items()
            if name not in passing or name not in held
        }
        if cls.get_extra_state is not nn.Module.get_extra_state:
            state["extra state"] = value.get_extra_state()
        if len(self._active) == 1:
            state["shared parameters"] = _shared(value)
        with self._inside(f"a {cls.__name__} in {self._path[0]}"):
            parts = [self.text(cls), self._attributes(state), self._pairs(tensors), self._pairs(value._modules)]
        return f"module {' '.join(parts)}"

    def _object(self, value: Any) -> str:
        """By what pickling would keep: class, arguments and state. Nothing is pickled."""
        cls = type(value)
        try:
            reduce = copyreg.dispatch_table.get(cls)
            parts: Any = value.__reduce_ex__(4) if reduce is None else reduce(value)
            made, arguments, *rest = (parts, None) if isinstance(parts, str) else parts
            rest = [list(part) if isinstance(part, Iterator) else part for part in rest]
        except Exception:  # whatever an object raises that cannot be written down
            return self._cannot(f"a {cls.__module__}.{cls.__qualname__}", f"object {cls.__qualname__}")
        state = [self._attributes(p) if isinstance(p, dict) and all(map(_is_text, p)) else self.text(p) for p in rest]
        return f"object {self.text(made)} {self.text(arguments)} {', '.join(state)}"

    def _cannot(self, found: str, text: str) -> str:
        sentence = f"{self._path[-1]} is {found}, which cannot be told from another of its kind"
        if not text:
            sentence = f"{self._path[-1]} needs {found}, which cannot be known beforehand"
        if sentence not in self.unknown:
            self.unknown.append(sentence)
        return f"unknown {text}"

    @contextmanager
    def _inside(self, where: str) -> Iterator[None]:
        self._path.append(where)
        try:
            yield
        finally:
            self._path.pop()


def _word(value: Any) -> str | None:
    try:
        word = getattr(value, "identity", None)
    except Exception:  # a property of the user's own
        return None
    return word if isinstance(word, str) else None


def _shared(model: nn.Module) -> list[tuple[str, str]]:
    """Parameters that have two names: the later and the first."""
    first: dict[int, str] = {}
    pairs = [(n, first.setdefault(id(p), n)) for n, p in model.named_parameters(remove_duplicate=False)]
    return [(name, same) for name, same in pairs if name != same]


def _uncompiled(model: nn.Module) -> nn.Module:
    """What ``torch.compile`` made a model of, which computes the same."""
    inner = model._modules.get("_orig_mod") if type(model).__module__.startswith("torch._dynamo") else None
    return model if inner is None else inner


def _shown(key: Any) -> str:
    try:
        return repr(key)
    except Exception:  # whatever a class of the user's own raises
        return f"a {type(key).__qualname__}"


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
