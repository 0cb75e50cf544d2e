"""The contract of importers, which map networks of other code bases to plugins."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

from gankit.core.interfaces.labels import Vocabulary
from gankit.core.interfaces.networks import ImageShape
from gankit.interop.torch_files import ForeignNetwork, TensorRecord


@dataclass
class Imported:
    """A network of another code base in gankit's terms.

    Args:
        kind: 'generator' or 'discriminator'; 'augmentation' for the pipeline beside them.
        spec: the plugin, {'name': ..., option: value}.
        image_shape: (C, H, W); without meaning for an augmentation.
        tensors: its state dict, under the plugin's names; must be complete.
        conditioner: a conditioner as a recipe writes it, whose condition is the one that the network was trained with.
        vocabulary: what that conditioner is given.
        conditioner_tensors: state dict of the conditioner, where it has trained weights.
        sections: further sections of a recipe that goes with the network, such as {'loss': 'hinge'}.
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

    Files may be hostile. What an importer sees are names, numbers and tensors that were read without executing
    anything; it must not execute or import anything that these name either."""

    classes: ClassVar[
        tuple[str, ...]
    ]  # classes of that code base, or descriptions of state dicts, for messages

    @abstractmethod
    def recognises(self, network: ForeignNetwork) -> bool:
        """Whether this importer knows the network, judged by its class and the names of its tensors."""

    @abstractmethod
    def convert(self, network: ForeignNetwork) -> Imported:
        """The network as a plugin with options; gankit then checks names and shapes of all tensors.

        Raises GankitError naming what is missing or not supported."""
