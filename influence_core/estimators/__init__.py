"""Estimators: which training images did it? One folder a family, one method a file."""

from influence_core.estimators.answers import Answer, Changed, ParameterChange
from influence_core.estimators.base import Estimator, all_estimators
from influence_core.estimators.changes import DataChange
from influence_core.estimators.cost import Expected, expected_cost, expected_training
from influence_core.estimators.detectors.calibrated import CalibratedDetector
from influence_core.estimators.detectors.confident_learning import ConfidentLearning
from influence_core.estimators.detectors.deep_knn import DeepKNN
from influence_core.estimators.detectors.el2n import EL2N
from influence_core.estimators.detectors.forgetting import Forgetting
from influence_core.estimators.detectors.loss import Loss
from influence_core.estimators.detectors.random import Random
from influence_core.estimators.detectors.relation_graph import RelationGraph
from influence_core.estimators.detectors.tuned_loss import TunedLoss
from influence_core.estimators.edits.fif import FIF
from influence_core.estimators.edits.gif import GIF
from influence_core.estimators.edits.pif import PIF
from influence_core.estimators.edits.scale import modified_f1, validated_scale
from influence_core.estimators.ensembles.gex import GEX
from influence_core.estimators.ensembles.gex_linear import GEXLinear
from influence_core.estimators.ensembles.laplace import Laplace
from influence_core.estimators.flat_minima.fvm import FVM
from influence_core.estimators.flat_minima.label_contrast import LabelContrast
from influence_core.estimators.flat_minima.vm import VM
from influence_core.estimators.gradient_products.rand_proj import RandProj
from influence_core.estimators.gradient_products.tracin import TracIn
from influence_core.estimators.gradient_products.tracin_rp import TracInRP
from influence_core.estimators.gradient_products.trak import TRAK
from influence_core.estimators.influence_functions.arnoldi import Arnoldi
from influence_core.estimators.influence_functions.conjugate_gradient import ConjugateGradient
from influence_core.estimators.influence_functions.datainf import DataInf
from influence_core.estimators.influence_functions.ekfac import EKFAC
from influence_core.estimators.influence_functions.last_layer import LastLayer
from influence_core.estimators.influence_functions.lissa import LiSSA
from influence_core.estimators.outputs_only.area_under_margin import AreaUnderMargin
from influence_core.estimators.outputs_only.margins import label_margins
from influence_core.estimators.outputs_only.prior_margin import PriorMargin
from influence_core.estimators.outputs_only.priors import true_frequencies
from influence_core.estimators.registry import available, get, recommended
from influence_core.estimators.sharpness.samgif import SAMGIF
from influence_core.estimators.sharpness.samhif import SAMHIF
from influence_core.estimators.sharpness.samif import SAMIF
from influence_core.estimators.together import ask_all, fit_all
from influence_core.estimators.work import Work

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
    "Answer",
    "AreaUnderMargin",
    "Arnoldi",
    "CalibratedDetector",
    "Changed",
    "ConfidentLearning",
    "ConjugateGradient",
    "DataChange",
    "DataInf",
    "DeepKNN",
    "Estimator",
    "Expected",
    "Forgetting",
    "GEXLinear",
    "LabelContrast",
    "Laplace",
    "LastLayer",
    "LiSSA",
    "Loss",
    "ParameterChange",
    "PriorMargin",
    "RandProj",
    "Random",
    "RelationGraph",
    "TracIn",
    "TracInRP",
    "TunedLoss",
    "Work",
    "all_estimators",
    "ask_all",
    "available",
    "expected_cost",
    "expected_training",
    "fit_all",
    "get",
    "label_margins",
    "modified_f1",
    "recommended",
    "true_frequencies",
    "validated_scale",
]
