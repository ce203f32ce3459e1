"""Peak memory of a sweep over 5,000 and over 50,000 images against 64 queries.

    python -m tests.benchmarks.memory

Each size runs in a process of its own; the data comes from a generator that makes images on demand, and the result
``[N, 64]`` is subtracted from the peak.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys

import torch
from torch import Tensor

from influence_core.gradients import inner_products
from tests.benchmarks.works import losses
from tests.models_for_tests import small_cnn

QUERIES = 64
BOUND = 1.3


class Images:
    """Random images, made when they are asked for."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def batch(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(int(ids[0]))
        return torch.randn(len(ids), 1, 28, 28, generator=generator), ids % 10


def peak(samples: int) -> float:
    """Peak MiB above the start, the result aside, measured in this process."""
    torch.manual_seed(0)
    model = small_cnn().eval()
    inner_products(model, losses, Images(64), Images(8))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    inner_products(model, losses, Images(samples), Images(QUERIES))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return after - before - samples * QUERIES * 4 / 2**20


def main() -> None:
    """Measure both sizes, print, and fail if the ratio is above the bound."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.samples:
        print(peak(options.samples))
        return
    peaks = {}
    for samples in (5_000, 50_000):
        command = [sys.executable, "-m", "tests.benchmarks.memory", "--samples", str(samples)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[samples] = float(done.stdout)
        print(f"{samples:6d} images: peak {peaks[samples]:.0f} MiB", flush=True)
    ratio = peaks[50_000] / peaks[5_000]
    print(f"ratio {ratio:.2f}, expected at most {BOUND}")
    sys.exit(ratio > BOUND)


if __name__ == "__main__":
    main()
