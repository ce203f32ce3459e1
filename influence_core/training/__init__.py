"""Fitting a model, sharpness-aware optimisers, and the trajectory of checkpoints."""

from influence_core.training.batchnorm import frozen_statistics, norm_layers, refresh_statistics
from influence_core.training.checkpoint_files import read_checkpoints
from influence_core.training.fit import Watch, cosine, fit, shuffled_batches, step
from influence_core.training.fresh import fit_fresh, reinitialised, train_fresh
from influence_core.training.options import RADII, Sharpness, Solver, check_sgd
from influence_core.training.randomness import Stream, seeded
from influence_core.training.recorder import Recorder
from influence_core.training.sharpness import ASAM, FSAM, LPFSGD, SAM, SharpnessAware, perturbation
from influence_core.training.trajectory import Checkpoint, Recipe, Trajectory

__all__ = [
    "ASAM",
    "FSAM",
    "LPFSGD",
    "RADII",
    "SAM",
    "Checkpoint",
    "Recipe",
    "Recorder",
    "Sharpness",
    "SharpnessAware",
    "Solver",
    "Stream",
    "Trajectory",
    "Watch",
    "check_sgd",
    "cosine",
    "fit",
    "fit_fresh",
    "frozen_statistics",
    "norm_layers",
    "perturbation",
    "read_checkpoints",
    "refresh_statistics",
    "reinitialised",
    "seeded",
    "shuffled_batches",
    "step",
    "train_fresh",
]
