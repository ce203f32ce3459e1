"""Decoded pictures that are kept as long as a budget of memory lasts. No result depends on it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from influence_core.data.shareable import stack_inputs
from influence_core.errors import InvalidInput

_budget = {"mib": 512.0}


def set_cache(mib: float) -> None:
    """Say how much memory each dataset of encoded pictures may use for decoded ones.

    It holds for datasets that decode their first picture from now on; 512 MiB by default. Pictures are kept as 8 bits a
    channel where the transform allows, so that 50,000 of 32 x 32 pixels in colour need 147 MiB. Once the budget is
    used up, the other pictures are decoded at each read.

    Args:
        mib: MiB of memory for each dataset, 0 to keep none.

    Raises:
        InvalidInput: if it is negative or no number.
    """
    if not isinstance(mib, (int, float)) or not mib >= 0:
        raise InvalidInput(f"the cache is {mib!r}; it is the memory for decoded pictures in MiB, so 0 or more")
    _budget["mib"] = float(mib)


class PixelCache:
    """Tensors of one shape by sample id, first come, first kept.

    What is there stays: passes go through a dataset from end to end, where throwing out what was used longest ago would
    throw out what comes next.

    Args:
        size: number of samples N.
    """

    def __init__(self, size: int) -> None:
        self._slots = torch.full((size,), -1, dtype=torch.int64)
        self._store: Tensor | None = None
        self._used = 0
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """The size alone: a copy fills its own."""
        return {"size": len(self._slots)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """What ``copy.deepcopy`` and ``pickle`` call."""
        vars(self).update(vars(PixelCache(state["size"])))

    @property
    def bytes(self) -> int:
        """Memory that is in use for pictures."""
        return 0 if self._store is None else self._store[: self._used].numel() * self._store.element_size()

    def gather(self, ids: Sequence[int], make: Callable[[int], Tensor]) -> Tensor:
        """Pixels of some samples, from the store or made and, if there is room, kept.

        Args:
            ids: which, [B].
            make: pixels of one sample.

        Returns:
            A new tensor [B, ...].

        Raises:
            InvalidInput: if two of them differ in shape.
        """
        wanted = torch.as_tensor(ids, dtype=torch.int64)
        slots = self._slots[wanted]
        missing = (slots < 0).nonzero().flatten().tolist()
        store = self._store
        if not missing and store is not None:
            return store[slots]
        made = {place: make(int(wanted[place])) for place in missing}
        if store is None or any(m.shape != store.shape[1:] or m.dtype != store.dtype for m in made.values()):
            rows = [made[p] if p in made else store[int(slots[p])] for p in range(len(wanted))]  # type: ignore[index]
            stacked = stack_inputs(rows, wanted.tolist(), "image") if rows else torch.empty(0)
        else:
            stacked = torch.empty((len(wanted), *store.shape[1:]), dtype=store.dtype)
            have = slots >= 0
            stacked[have] = store[slots[have]]
            for place, pixels in made.items():
                stacked[place] = pixels
        if made:
            self._keep(wanted[missing], stacked[missing])
        return stacked

    def _keep(self, ids: Tensor, pixels: Tensor) -> None:
        with self._lock:
            if self._store is None:
                each = max(1, pixels[0].numel() * pixels.element_size())
                room = min(len(self._slots), int(_budget["mib"] * (1 << 20)) // each)
                self._store = torch.empty((room, *pixels.shape[1:]), dtype=pixels.dtype)
            if self._store.shape[1:] != pixels.shape[1:] or self._store.dtype != pixels.dtype:
                return
            new = (self._slots[ids] < 0).nonzero().flatten()[: len(self._store) - self._used]
            first, self._used = self._used, self._used + len(new)
            self._store[first : self._used] = pixels[new]
            self._slots[ids[new]] = torch.arange(first, self._used)  # last: whoever sees it finds the pixels there
