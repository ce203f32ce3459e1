"""Datasets with labels, true labels when known, and pictures to show."""

from influence_core.data.dataset import LabelledDataset, stack_inputs, wrap
from influence_core.data.digits import digits
from influence_core.data.images import EncodedImages, image_folder, parquet_images
from influence_core.data.labels import check_labels
from influence_core.data.noise import symmetric_noise

__all__ = [
    "EncodedImages",
    "LabelledDataset",
    "check_labels",
    "digits",
    "image_folder",
    "parquet_images",
    "stack_inputs",
    "symmetric_noise",
    "wrap",
]
