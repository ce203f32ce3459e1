"""Torch's global random numbers, which dropout and augmentation draw from: one stream for each training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from influence_core.threads import FairLock, uninterrupted

_generators = FairLock()
"""Held while torch's global generators are somebody's own; the process has no others."""


class Stream:
    """Random numbers of one's own, from torch's global generators of the CPU and of a device.

    A training enters it for each step, so that the trainings of other threads take turns with it, and none draws what
    another one should have drawn::

        stream = Stream(seed, device)
        for ...:
            with stream.current():
                step(...)                      # goes on drawing where the last step stopped

    Generators of other devices are left alone; ``torch.manual_seed`` would seed them.

    Args:
        seed: of both generators.
        device: where the model is.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._seed: int | None = seed
        self._device = device if device.type == "cuda" else None
        self._states: list[Tensor] = []
        self._entered = False

    @contextmanager
    def current(self) -> Iterator[None]:
        """Torch's global generators are at this stream's place inside the ``with`` block, and as before afterwards.

        Other threads wait for their own stream; what waits is counted in ``influence_core.threads.waited``. Inside of
        itself it changes nothing.
        """
        with _generators:
            if self._entered:  # by this thread, as others wait
                yield
                return
            before = self._read()
            try:
                self._entered = True
                self._enter()
                yield
            finally:
                with uninterrupted():
                    self._entered = False
                    self._states = self._read()
                    self._write(before)

    def _enter(self) -> None:
        if self._seed is None:
            self._write(self._states)
            return
        torch.default_generator.manual_seed(self._seed)
        if self._device is not None:
            with torch.cuda.device(self._device):
                torch.cuda.manual_seed(self._seed)
        self._seed = None

    def _read(self) -> list[Tensor]:
        states = [torch.get_rng_state()]
        return states if self._device is None else [*states, torch.cuda.get_rng_state(self._device)]

    def _write(self, states: list[Tensor]) -> None:
        torch.set_rng_state(states[0])
        if self._device is not None:
            torch.cuda.set_rng_state(states[1], self._device)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """A new ``Stream`` for a short piece of work, such as drawing a model's first weights.

    Args:
        seed: of the stream.
        device: where the model is.

    Yields:
        Nothing.
    """
    with Stream(seed, device).current():
        yield
