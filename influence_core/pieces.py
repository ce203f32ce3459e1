"""Pieces of dear work that can be kept, so that work which was broken off goes on where it stopped.

A loop whose steps are dear makes each of them as a piece with a name of its own: the member of an ensemble, the
features at a checkpoint, a block of solves. Without a keeper that changes nothing. With one, a piece that is kept is
not made again. The numbers are the same bytes in all three cases, so a piece must not depend on what the pieces before
it left behind: random numbers come from seeds of its own, or are drawn whether or not it is kept.

The names say nothing about the study or the settings: a keeper is for one piece of work, which is named by all that it
depends on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from influence_core.errors import InvalidInput


class Keeper(Protocol):
    """Where the pieces of one piece of work are kept, such as a folder."""

    def get(self, name: str) -> dict[str, Tensor] | None:
        """What was put under this name, on the CPU; ``None`` if nothing was.

        Args:
            name: words of letters, digits, hyphens and underscores, joined by slashes.
        """

    def put(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep a finished piece; what it raises ends the work.

        Args:
            name: as for ``get``.
            tensors: on the CPU; written or copied before this returns, since their owner may change them afterwards.
        """


@dataclass
class _Work:
    """The piece of work under way."""

    keeper: Keeper
    asked: set[str] = field(default_factory=set)


_work: ContextVar[_Work | None] = ContextVar("influence_core_pieces", default=None)
_prefix: ContextVar[str] = ContextVar("influence_core_parts", default="")


@contextmanager
def keeping(keeper: Keeper) -> Iterator[None]:
    """Keep the pieces of all work inside the ``with`` block, and take those that are kept.

    It holds for this thread (the ``contextvars`` context) alone.

    Args:
        keeper: of this piece of work and no other.

    Yields:
        Nothing; the former keeper is back afterwards.
    """
    work, prefix = _work.set(_Work(keeper)), _prefix.set("")
    try:
        yield
    finally:
        _work.reset(work)
        _prefix.reset(prefix)


@contextmanager
def parts(name: str) -> Iterator[None]:
    """Put a name before those of all pieces inside the ``with`` block, so that the pieces of two fits do not mix.

    Args:
        name: of this part of the work.

    Yields:
        Nothing; the former prefix is back afterwards.
    """
    token = _prefix.set(f"{_prefix.get()}{name}/")
    try:
        yield
    finally:
        _prefix.reset(token)


@contextmanager
def common(name: str) -> Iterator[None]:
    """A name in place of those around: for pieces that other parts of the same work need as well, and make alike.

    Args:
        name: of what they are.

    Yields:
        Nothing; the former prefix is back afterwards.
    """
    token = _prefix.set(f"{name}/")
    try:
        yield
    finally:
        _prefix.reset(token)


def piece(name: str, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """One piece of the work: what is kept under its name, or else what ``make`` makes, which is kept from then on.

    Args:
        name: of its own within the work; see ``parts``.
        make: makes the piece, from nothing that depends on whether other pieces were made or kept.

    Returns:
        Name -> tensor, contiguous, to be changed at will. On the CPU where there is a keeper, else where they were
        made: the caller moves them.

    Raises:
        InvalidInput: if the work asked for a piece of this name before.

    Example:
        >>> import torch
        >>> class Memory(dict):
        ...     def put(self, name, tensors):
        ...         self[name] = {key: tensor.clone() for key, tensor in tensors.items()}
        >>> memory = Memory()
        >>> for _ in range(2):
        ...     with keeping(memory), parts("fit"):
        ...         print(piece("member-0", lambda: print("made") or {"losses": torch.ones(2)}))
        made
        {'losses': tensor([1., 1.])}
        {'losses': tensor([1., 1.])}
        >>> list(memory)
        ['fit/member-0']
    """
    work, name = _work.get(), _prefix.get() + name
    if work is None:
        return {key: tensor.detach().contiguous() for key, tensor in make().items()}
    if name in work.asked:
        raise InvalidInput(
            f"the piece {name!r} is asked for twice in one piece of work, and would be the same both times: give each "
            "a name of its own, such as with influence_core.pieces.parts('second')"
        )
    kept = work.keeper.get(name)
    if kept is None:
        found = {key: tensor.detach().cpu().contiguous() for key, tensor in make().items()}
        work.keeper.put(name, found)
    else:  # a file's tensors lie wherever they do in it, and products of unaligned ones round differently
        found = {key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in kept.items()}
    work.asked.add(name)
    return found


def packed(facts: Any) -> Tensor:
    """Plain values as a tensor, for a piece that needs to carry some.

    Args:
        facts: what JSON takes.

    Returns:
        uint8.
    """
    return torch.frombuffer(bytearray(json.dumps(facts).encode()), dtype=torch.uint8)


def unpacked(tensor: Tensor) -> Any:
    """The plain values in a tensor from ``packed``; a tuple comes back as a list.

    Args:
        tensor: uint8.

    Returns:
        The values.
    """
    return json.loads(bytes(tensor.tolist()))
