from __future__ import annotations

import pytest
import torch

import influence_core as ic

torch.set_num_threads(1)  # sums in one order, and room for what else runs on two cores


@pytest.fixture(scope="session")
def demo() -> ic.Study:
    """The bundled digits. Shared by all tests: nothing in the package may change it."""
    return ic.demo.digits()
