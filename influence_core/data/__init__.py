"""Datasets with labels, true labels when known, and pictures to show; and samples of any kind."""

from influence_core.data.dataset import LabelledDataset, stack_inputs
from influence_core.data.digits import digits
from influence_core.data.images import EncodedImages, image_folder, parquet_images
from influence_core.data.labels import check_labels
from influence_core.data.noise import symmetric_noise
from influence_core.data.samples import SampleSet
from influence_core.data.wrapping import wrap
from influence_core.inputs import Bundle

__all__ = [
    "Bundle",
    "EncodedImages",
    "LabelledDataset",
    "SampleSet",
    "check_labels",
    "digits",
    "image_folder",
    "parquet_images",
    "stack_inputs",
    "symmetric_noise",
    "wrap",
]
