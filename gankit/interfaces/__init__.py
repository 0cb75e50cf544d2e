"""Everything that plugin authors may import: contracts, conditions, labels, random numbers, errors, shared layers.

These names stay; modules below `gankit.core` and the other rooms may move. What only op backends need is in
`gankit.interfaces.ops`.
"""

from __future__ import annotations

from gankit.core.config.options import Nested
from gankit.core.config.registry import registry
from gankit.core.data.contact_sheet import save_png, sheet
from gankit.core.data.images import SUFFIXES as IMAGE_SUFFIXES
from gankit.core.data.images import BadImage, from_uint8, open_image, to_uint8
from gankit.core.interfaces.composition import Component, Composition, CondSpec, ImageShape
from gankit.core.interfaces.conditions import (
    Cond,
    Condition,
    Conditioner,
    embedding_of,
    required_embedding,
)
from gankit.core.interfaces.data import Source, WeightSource
from gankit.core.interfaces.labels import Label, Vocabulary
from gankit.core.interfaces.networks import (
    Discriminator,
    FeatureNetwork,
    FrozenNetwork,
    Generator,
    Pretrained,
    Tap,
)
from gankit.core.interfaces.op_backend import OpBackend
from gankit.core.interfaces.training import (
    AdversarialLoss,
    Augmentation,
    Guidance,
    Optimizer,
    Regularizer,
    StepContext,
    Tracker,
)
from gankit.core.models.pretrained import find_folder, find_state_dict, read_safetensors, shapes_only
from gankit.core.nn.attention_pool import AttentionPool
from gankit.core.nn.pyramid import channels, levels, nominal
from gankit.core.nn.rgb import entry_size, to_rgb
from gankit.core.nn.spectral_norm import SNConv1d, SNConv2d, SNConvTranspose2d, SNLinear
from gankit.core.nn.stylegan_layers import Conv2dLayer, FullyConnected, MappingNetwork, minibatch_std
from gankit.core.runtime.paths import cache_dir
from gankit.core.runtime.precision import at_least_float32, without_autocast
from gankit.core.runtime.random import rand, randint, randn, shared_rand
from gankit.core.runtime.tensor_files import (
    load_tensors,
    save_tensors,
    sha256_of,
    write_advice,
    write_text,
)
from gankit.core.training.trackers import Event
from gankit.errors import GankitError, unknown
from gankit.evaluation.metric import ImageMetric, Measure, Metric, ModelMetric
from gankit.evaluation.metric_context import Album, BatchSlice, MetricContext
from gankit.evaluation.moments import FeatureSet
from gankit.hookspecs import hookimpl
from gankit.interop.importer import Imported, Importer
from gankit.interop.torch_files import ForeignNetwork, TensorRecord
from gankit.sampling.engine import Engine, Exporter

__all__ = [
    "IMAGE_SUFFIXES",
    "AdversarialLoss",
    "Album",
    "AttentionPool",
    "Augmentation",
    "BadImage",
    "BatchSlice",
    "Component",
    "Composition",
    "Cond",
    "CondSpec",
    "Condition",
    "Conditioner",
    "Conv2dLayer",
    "Discriminator",
    "Engine",
    "Event",
    "Exporter",
    "FeatureNetwork",
    "FeatureSet",
    "ForeignNetwork",
    "FrozenNetwork",
    "FullyConnected",
    "GankitError",
    "Generator",
    "Guidance",
    "ImageMetric",
    "ImageShape",
    "Imported",
    "Importer",
    "Label",
    "MappingNetwork",
    "Measure",
    "Metric",
    "MetricContext",
    "ModelMetric",
    "Nested",
    "OpBackend",
    "Optimizer",
    "Pretrained",
    "Regularizer",
    "SNConv1d",
    "SNConv2d",
    "SNConvTranspose2d",
    "SNLinear",
    "Source",
    "StepContext",
    "Tap",
    "TensorRecord",
    "Tracker",
    "Vocabulary",
    "WeightSource",
    "at_least_float32",
    "cache_dir",
    "channels",
    "embedding_of",
    "entry_size",
    "find_folder",
    "find_state_dict",
    "from_uint8",
    "hookimpl",
    "levels",
    "load_tensors",
    "minibatch_std",
    "nominal",
    "open_image",
    "rand",
    "randint",
    "randn",
    "read_safetensors",
    "registry",
    "required_embedding",
    "save_png",
    "save_tensors",
    "sha256_of",
    "shapes_only",
    "shared_rand",
    "sheet",
    "to_rgb",
    "to_uint8",
    "unknown",
    "without_autocast",
    "write_advice",
    "write_text",
]
