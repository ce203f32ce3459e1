from __future__ import annotations

import os
from collections.abc import Iterator

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin take the cores of the processes beside them

import pytest
import torch

import influence_core as ic

torch.set_num_threads(1)  # sums in one order, and room for what else runs on two cores


@pytest.fixture(scope="session")
def demo() -> ic.Study:
    """The bundled digits. Shared by all tests: nothing in the package may change it."""
    return ic.demo.digits()


@pytest.fixture(scope="session", autouse=True)
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the tests keep between runs is kept apart from what their user keeps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INFLUENCE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
