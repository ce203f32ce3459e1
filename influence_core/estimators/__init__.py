"""Estimators: which training images did it?"""

from influence_core.estimators.arnoldi import Arnoldi
from influence_core.estimators.base import Estimator, all_estimators
from influence_core.estimators.confident_learning import ConfidentLearning
from influence_core.estimators.controls import Loss, Random, TunedLoss
from influence_core.estimators.datainf import DataInf
from influence_core.estimators.deep_knn import DeepKNN
from influence_core.estimators.ekfac import EKFAC
from influence_core.estimators.flat_minima import FVM, VM
from influence_core.estimators.generalized import FIF, GIF, PIF
from influence_core.estimators.gex import GEX, GEXLinear
from influence_core.estimators.inverse_hessian import ConjugateGradient, LiSSA
from influence_core.estimators.label_contrast import LabelContrast
from influence_core.estimators.laplace import Laplace
from influence_core.estimators.last_layer import LastLayer
from influence_core.estimators.projections import TRAK, RandProj, TracInRP
from influence_core.estimators.registry import available, get
from influence_core.estimators.sam_trajectory import SAMGIF
from influence_core.estimators.sharpness_aware import SAMHIF, SAMIF
from influence_core.estimators.tracin import TracIn
from influence_core.estimators.training_dynamics import EL2N, Forgetting

__all__ = [
    "EKFAC",
    "EL2N",
    "FIF",
    "FVM",
    "GEX",
    "GIF",
    "PIF",
    "SAMGIF",
    "SAMHIF",
    "SAMIF",
    "TRAK",
    "VM",
    "Arnoldi",
    "ConfidentLearning",
    "ConjugateGradient",
    "DataInf",
    "DeepKNN",
    "Estimator",
    "Forgetting",
    "GEXLinear",
    "LabelContrast",
    "Laplace",
    "LastLayer",
    "LiSSA",
    "Loss",
    "RandProj",
    "Random",
    "TracIn",
    "TracInRP",
    "TunedLoss",
    "all_estimators",
    "available",
    "get",
]
