"""Datasets with labels, true labels when known, and pictures to show; and samples of any kind."""

from influence_core.data.cache import set_cache
from influence_core.data.cifar_n import cifar_n_labels
from influence_core.data.dataset import LabelledDataset
from influence_core.data.digits import digits
from influence_core.data.encoded import EncodedImages
from influence_core.data.hugging_face import hf
from influence_core.data.images import image_folder
from influence_core.data.joined import join
from influence_core.data.labels import check_labels
from influence_core.data.lookalikes import Pictures, lookalikes, small_pictures
from influence_core.data.noise import symmetric_noise
from influence_core.data.samples import SampleSet
from influence_core.data.shareable import stack_inputs
from influence_core.data.splitting import Split, split
from influence_core.data.tables import image_table, parquet_images
from influence_core.data.wrapping import wrap
from influence_core.inputs import Bundle

__all__ = [
    "Bundle",
    "EncodedImages",
    "LabelledDataset",
    "Pictures",
    "SampleSet",
    "Split",
    "check_labels",
    "cifar_n_labels",
    "digits",
    "hf",
    "image_folder",
    "image_table",
    "join",
    "lookalikes",
    "parquet_images",
    "set_cache",
    "small_pictures",
    "split",
    "stack_inputs",
    "symmetric_noise",
    "wrap",
]
