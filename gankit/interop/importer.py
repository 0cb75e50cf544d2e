"""Base class of importer plugins, which map networks of other code bases to gankit's plugins."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

from gankit.core.interfaces.labels import Vocabulary
from gankit.core.interfaces.networks import ImageShape
from gankit.interop.torch_files import ForeignNetwork, TensorRecord


@dataclass
class Imported:
    """A converted network: plugin, options and tensors.

    Args:
        kind: 'generator', 'discriminator' or 'augmentation'.
        spec: the plugin, {'name': ..., option: value}.
        image_shape: (C, H, W); not used for an augmentation.
        tensors: complete state dict under the plugin's tensor names.
        conditioner: spec of a conditioner that gives the conditions with which the network was trained.
        vocabulary: vocabulary of that conditioner.
        conditioner_tensors: state dict of the conditioner, if it has trained weights.
        sections: further sections of the network's recipe, such as {'loss': 'hinge'}.
    """

    kind: str
    spec: dict[str, Any]
    image_shape: ImageShape
    tensors: dict[str, TensorRecord]
    conditioner: Any = "none"
    vocabulary: Vocabulary = field(default_factory=Vocabulary)
    conditioner_tensors: dict[str, TensorRecord] = field(default_factory=dict)
    sections: dict[str, Any] = field(default_factory=dict)


class Importer(ABC):
    """Maps networks in files of another code base to plugins. `__init__(self)`.

    Files may be hostile. An importer is given names, numbers and tensors that were read without executing anything; it
    must not execute or import anything named by them."""

    classes: ClassVar[
        tuple[str, ...]
    ]  # names of that code base's classes, or descriptions of state dicts, for messages

    @abstractmethod
    def recognises(self, network: ForeignNetwork) -> bool:
        """True if this importer converts the network, judged by its class and the names of its tensors."""

    @abstractmethod
    def convert(self, network: ForeignNetwork) -> Imported:
        """Convert a network; gankit then checks names and shapes of all tensors.

        Raises GankitError naming a missing or unsupported setting."""
