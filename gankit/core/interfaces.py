"""The contracts that plugins implement.

Keyword-only constructor parameters of an implementation are its options (see `gankit.hookspecs`); positional ones are
given by gankit. Images are NCHW float tensors in [-1, 1]; at the edges (files, sources) they are uint8 arrays HWC.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from gankit.core.foreign import ForeignNetwork, TensorRecord
from gankit.core.labels import Label, Vocabulary
from gankit.core.statistics import FeatureSet

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from gankit.bench import Album, Bench

__all__ = [
    "AdversarialLoss",
    "Augmentation",
    "Composition",
    "CondSpec",
    "Condition",
    "Conditioner",
    "Discriminator",
    "Engine",
    "Exporter",
    "FeatureNetwork",
    "Generator",
    "Guidance",
    "ImageMetric",
    "Imported",
    "Importer",
    "Label",
    "Measure",
    "Metric",
    "ModelMetric",
    "Regularizer",
    "Source",
    "Tap",
    "Tracker",
    "Vocabulary",
    "WeightSource",
]

ImageShape = tuple[int, int, int]  # (C, H, W)
SPATIAL_NUMBERS = 2023


# ---------------------------------------------------------------------------------------------- conditions


@dataclass(frozen=True)
class CondSpec:
    """Sizes of a `Condition`, known before any network is built; 0 means absent."""

    c_dim: int = 0
    token_dim: int = 0


@dataclass
class Condition:
    """What a batch of images is conditioned on.

    Args:
        embedding: [B, c_dim], one vector an image, or None.
        tokens: [B, T, token_dim], a sequence an image, or None.
        mask: [B, T] bool, True where `tokens` holds a token.
    """

    embedding: Tensor | None = None
    tokens: Tensor | None = None
    mask: Tensor | None = None

    def map(self, fn: Any) -> Condition:
        """A new condition with `fn` applied to each tensor that is present."""
        return Condition(*(None if t is None else fn(t) for t in (self.embedding, self.tokens, self.mask)))

    def __getitem__(self, rows: Any) -> Condition:
        """Rows of the batch; a slice, an index tensor or a boolean mask."""
        return self.map(lambda t: t[rows])

    def to(self, device: torch.device | str) -> Condition:
        return self.map(lambda t: t.to(device))

    def detach(self) -> Condition:
        return self.map(torch.Tensor.detach)

    @staticmethod
    def cat(parts: Sequence[Condition]) -> Condition:
        """Concatenate along the batch."""

        def join(name: str) -> Tensor | None:
            tensors = [getattr(part, name) for part in parts]
            return None if tensors[0] is None else torch.cat(tensors)

        return Condition(join("embedding"), join("tokens"), join("mask"))


Cond = Condition | Tensor | None


def embedding_of(cond: Cond) -> Tensor | None:
    """The embedding [B, c_dim] of a condition given in any accepted form."""
    return cond.embedding if isinstance(cond, Condition) else cond


def required_embedding(cond: Cond, c_dim: int) -> Tensor | None:
    """The embedding [B, c_dim] that a conditional network cannot do without; whatever there is if c_dim is 0."""
    c = embedding_of(cond)
    if c_dim and (c is None or c.shape[1:] != (c_dim,)):
        given = "none" if c is None else list(c.shape)
        raise ValueError(f"this network needs a condition with an embedding [B, {c_dim}], not {given}")
    return c


class Conditioner(nn.Module, ABC):
    """Turns labels into conditions. Emits one-hot, multi-hot or encoder features; learned projections live in G and D.

    Life: constructed with its options, then `set_vocabulary` once (from the data set, or from `conditioner.json`),
    after which `spec` is valid. Parameters with `requires_grad` are trained together with G.
    """

    spec: CondSpec

    @abstractmethod
    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Take the classes and tags that exist. Raises GankitError when a needed one is missing from the data."""

    @abstractmethod
    def vocabulary(self) -> Vocabulary:
        """What `set_vocabulary` needs to rebuild this conditioner; saved as `conditioner.json`."""

    @abstractmethod
    def encode(self, labels: Sequence[Label]) -> Condition:
        """Labels -> condition on the module's device, without dropout or noise.

        A field that a label lacks is encoded as "not given". Unknown tags or classes raise GankitError with near
        matches."""

    def augment(self, cond: Condition) -> Condition:
        """Dropout and noise of training mode; draws from `gankit.core.random`. Identity by default."""
        return cond

    @property
    def accepts(self) -> frozenset[str]:
        """Which of 'cls', 'tags', 'text' this conditioner reads."""
        raise NotImplementedError

    def columns(self) -> list[tuple[str, str]]:
        """What each of the `spec.c_dim` numbers stands for: pairs of a kind ('cls', 'tags' or one of its own) and a
        name, all different. Numbers with the same name in two models mean the same, so that `--init` can match them."""
        return [(type(self).__name__, str(i)) for i in range(self.spec.c_dim)]

    def ignored(self, label: Label) -> list[str]:
        """Tags of a label that are known but without effect, because they are rare in the training data."""
        return []

    def identity(self) -> dict[str, str]:
        """Hashes of frozen pretrained encoders by what they are for; a model is tied to them."""
        return {}

    def prepare(self, cache_dir: Path | None, device: torch.device) -> None:
        """Called once before training: a place to open an on-disk cache of embeddings."""


# ------------------------------------------------------------------------------------------------ networks


@dataclass(frozen=True)
class Composition:
    """What a plugin is to work with in a recipe, known before any network is built.

    Args:
        image_shape: (C, H, W).
        cond: sizes of the condition.
        accepts: which of 'cls', 'tags', 'text' the conditioner reads.
        parts: section of the recipe -> {'name': ..., option: value}, of regularizers and guidance name -> options.
    """

    image_shape: ImageShape
    cond: CondSpec
    accepts: frozenset[str]
    parts: Mapping[str, Any]

    @property
    def conditioner(self) -> str:
        """How to call it in messages."""
        return f"conditioner {self.parts['conditioner']['name']!r}"


class Part:
    """A network or a training part, which may be unfit for others."""

    @classmethod
    def unfit(cls, options: Mapping[str, Any], composition: Composition) -> tuple[str, str] | None:
        """What this plugin, with these options, cannot work with, and why: ("conditioner 'none'", "there is ...").

        Asked before any network is built, for mistakes that would show late or not at all; None if there is none."""
        return None


class Generator(nn.Module, Part):
    """`__init__(self, image_shape: (C, H, W), cond: CondSpec, *, options)`.

    `mapping` and `synthesis` are methods or submodules with these signatures::

        mapping(z [B, z_dim], cond=None, *, truncation_psi=1, truncation_cutoff=None, update_emas=False)
            -> ws [B, num_ws, w_dim]; truncation follows the network's family
        synthesis(ws, cond=None, *, noise_mode='random'|'const'|'none')
            -> images [B, C, H, W] in [-1, 1]

    A network without a mapping network returns z itself as ws [B, 1, z_dim]. A synthesis network that keeps running
    statistics of its own takes `update_emas=False`, too, and says so by `synthesis_emas`. One that sets `follows_ws`
    takes ws in bfloat16 as well: its feature maps are bfloat16 then, its images float32 still.
    """

    batch_statistics: ClassVar[str] = ""  # names the layers that look across the batch in training mode
    synthesis_emas: ClassVar[bool] = False
    follows_ws: ClassVar[bool] = False  # maps are bfloat16 where ws is; else torch.autocast makes them so
    z_dim: int
    w_dim: int
    num_ws: int
    image_shape: ImageShape
    mapping: Callable[..., Tensor]
    synthesis: Callable[..., Tensor]

    def renamed(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Tensors of a relative, such as one of another size, under the names that they have in this network."""
        return tensors

    def fade_in(self, share: float) -> bool:
        """Let what the finest resolution adds count for a share in [0, 1], 1 being the network as it is (progressive
        growing, Karras et al. 2018, section 2); False if the architecture has no such thing."""
        return False

    def forward(
        self,
        z: Tensor,
        cond: Cond = None,
        *,
        truncation_psi: float = 1,
        truncation_cutoff: int | None = None,
        update_emas: bool = False,
        noise_mode: str = "random",
    ) -> Tensor:
        ws = self.mapping(
            z,
            cond,
            truncation_psi=truncation_psi,
            truncation_cutoff=truncation_cutoff,
            update_emas=update_emas,
        )
        emas = {"update_emas": update_emas} if self.synthesis_emas else {}
        return self.synthesis(ws, cond, noise_mode=noise_mode, **emas)


class Discriminator(nn.Module, Part, ABC):
    """`__init__(self, image_shape: (C, H, W), cond: CondSpec, *, options)`.

    Pretrained frozen networks inside are `FeatureNetwork`s; gankit leaves their tensors out of checkpoints.
    """

    batch_statistics: ClassVar[str] = (
        ""  # names the layers that look across the batch, e.g. "minibatch stddev"
    )

    def forward(self, images: Tensor, cond: Cond = None) -> list[Tensor]:
        """Logits, one tensor [B, N_i] for each feature network (a single one for a plain discriminator)."""
        return self.score(self.features(images), cond)

    def fade_in(self, share: float) -> bool:
        """Let what is seen at the finest resolution only count for a share in [0, 1], as `Generator.fade_in`."""
        return False

    @abstractmethod
    def features(self, images: Tensor) -> Any:
        """The part that does not see the condition, so that several conditions can be scored at its cost once."""

    @abstractmethod
    def score(self, features: Any, cond: Cond = None) -> list[Tensor]:
        """Logits [B, N_i] of what `features` returned, under a condition."""


@dataclass(frozen=True)
class Tap:
    """A feature map of a `FeatureNetwork`: [B, channels, H/stride, W/stride]."""

    channels: int
    stride: int


class FeatureNetwork(nn.Module, ABC):
    """A frozen network: always in eval mode, no gradients on its weights, gradients to its input.

    `forward` takes RGB images in [-1, 1] *already at the size* at which they shall enter, and applies its own mean and
    std. It is referenced by `identity()` in checkpoints, never stored.
    """

    taps: list[Tap]
    num_pooled: int  # width of `pooled`
    num_logits: int  # width of `logits`; 0 where the network has no classifier
    input_multiple: int = 1  # sides of the input must be multiples of this
    input_side: int | None = None  # of the square images that it was trained on, where that is known
    own_resize: str | None = (
        None  # the filter by which all but `forward` bring images of any size to its input, if so
    )
    answers: Mapping[
        str, Sequence[str | None]
    ] = {}  # what its logits decide, for the metric 'accuracy', see there

    @abstractmethod
    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps, one for each of `taps`, fine to coarse (a ViT's are all of one size)."""

    @abstractmethod
    def pooled(self, images: Tensor) -> Tensor:
        """[B, num_pooled] descriptor."""

    def logits(self, images: Tensor) -> Tensor:
        """[B, num_logits] classifier output."""
        raise NotImplementedError(f"{type(self).__name__} has no classifier")

    def spatial(self, images: Tensor) -> Tensor:
        """[B, N] descriptor of what is where: the first channels of the map whose stride is nearest to 16, as many as
        give about as many numbers as the 2023 of spatial FID (Nash et al., Generating Images with Sparse
        Representations, 2021)."""
        maps = self(images)
        chosen = maps[min(range(len(maps)), key=lambda i: abs(self.taps[i].stride - 16))]
        return chosen[:, : max(1, SPATIAL_NUMBERS // chosen[0, 0].numel())].flatten(1)

    def read(self, images: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        """Several of 'pooled', 'spatial' and 'logits' at once; override it where they share work."""
        return {name: getattr(self, name)(images) for name in outputs}

    def identity(self) -> dict[str, str]:
        """{'name': ..., 'sha256': ...} over the fp32 bytes of the tensors in name order."""
        from gankit.core.weights import sha256_of

        return {"name": self.name, "sha256": sha256_of(self.state_dict())}

    name: str

    def train(self, mode: bool = True) -> FeatureNetwork:
        return super().train(False)


# ------------------------------------------------------------------------------------------------- training


class AdversarialLoss(Part, ABC):
    """Logits are lists as `Discriminator.forward` returns them; results are per image, [B]."""

    g_needs_real: ClassVar[bool] = False  # relativistic losses compare with real logits in G's step too

    @abstractmethod
    def d_loss(self, real: list[Tensor], fake: list[Tensor]) -> Tensor: ...

    @abstractmethod
    def g_loss(self, fake: list[Tensor], real: list[Tensor] | None = None) -> Tensor: ...


@dataclass
class StepContext:
    """What a regularizer may use: one micro-batch of the running step.

    `side` is 'D' or 'G', whose phase it is; `real` is the batch before augmentation, [B, C, H, W]; `cond` its condition
    as the networks see it, `full_cond` the same before dropout and noise; `augment` is the pipeline in front of D;
    `sample_z(n)` draws fresh latents [n, z_dim]. In the main phases `features` holds what these have computed: "real"
    are D's features of the augmented reals (D's phase), "fake" G's images under the same conditions, before
    augmentation, and "fake features" D's features of them, after it (both phases; D's without a gradient to G).
    """

    side: str
    G: Generator
    D: Discriminator
    real: Tensor
    cond: Condition
    full_cond: Condition
    augment: Any
    sample_z: Any
    nimg: int
    features: dict[str, Any] = field(default_factory=dict)
    g_cond: Condition | None = None


class Regularizer(nn.Module, Part, ABC):
    """A penalty on one network, computed every `interval` steps and multiplied by it (lazy regularisation, StyleGAN2
    section 3.2). With interval 1 it joins the main loss; otherwise it is a step of its own and the optimiser of its
    side gets lr * k/(k+1) and beta ** (k/(k+1)). Parameters of its own are trained in D's phases."""

    side: ClassVar[str]  # 'D', 'G', or 'both' for one that joins both main losses
    second_order: ClassVar[bool] = True  # takes gradients of gradients, so it always runs in fp32
    interval: int = 1
    batch_statistics: ClassVar[str] = ""

    def set_up(self, D: Discriminator, conditioner: Conditioner, image_shape: ImageShape) -> None:
        """Called once, before training, with the networks at hand: the place to make parameters whose shapes depend on
        them. Raises GankitError if this regularizer cannot work with them."""

    @abstractmethod
    def penalty(self, step: StepContext) -> Tensor:
        """Weighted penalty of each image, [B]; state that it keeps belongs in buffers."""


class Guidance(nn.Module, Part, ABC):
    """A loss on generated images; its frozen networks are not stored."""

    weight: float

    @abstractmethod
    def loss(self, images: Tensor, cond: Condition, labels: Sequence[Label]) -> Tensor:
        """Unweighted loss of each image, [B]; images [B, C, H, W] in [-1, 1], before augmentation."""


class Augmentation(nn.Module, Part, ABC):
    """`__init__(self, image_shape: (C, H, W), *, options)`; twice differentiable with respect to the images."""

    channels: ClassVar[tuple[int, ...]] = (
        1,
        3,
        4,
    )  # channel counts that it accepts; others are refused early

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor: ...

    def update(self, real_signs: float, nimg: int, batch: int) -> None:
        """Adapt to the mean sign of D's real logits over the `batch` images since the last call (4 steps)."""

    def scalars(self) -> dict[str, float]:
        """What to log, such as an adaptive strength."""
        return {}


class Tracker(ABC):
    """`__init__(self, run_dir: Path, *, options)`; called on the main process only, a few times a minute at most."""

    def on_tick(self, nimg: int, scalars: Mapping[str, float]) -> None:
        """Scalars averaged since the last tick."""

    def on_images(self, nimg: int, name: str, path: Path) -> None:
        """A sample grid was written to `path` (PNG)."""

    def close(self) -> None: ...


# ------------------------------------------------------------------------------------------------- measuring


class Measure(ABC):
    """What the three kinds of metrics have in common.

    Attributes:
        values: the numbers that it gives: name -> 'lower' or 'higher', whichever is better, or '' for neither.
        min_images: with fewer images there is no value; set it in the constructor if it depends on options.
    """

    values: Mapping[str, str]
    min_images: int = 1

    def check(self, bench: Bench) -> None:
        """Raise GankitError, before anything is drawn, for a model that cannot be measured in this way."""


class Metric(Measure):
    """`__init__(self, *, options)`; compares features of real and of generated images, whatever network they come from.
    Random choices inside come from a fixed seed: the same features give the same numbers.

    Attributes:
        output: what it reads of the feature network: 'pooled', 'spatial' or 'logits'.
        needs_rows: whether it reads `FeatureSet.rows`; otherwise it gets moments only, which take no disk.
        needs_real: whether it looks at real images; otherwise `real` is `fake`.
        min_images: of real and of generated ones.
        feature: spec of a feature network of its own, an option marked `Nested("feature", build=False)`; None means
            the one that all metrics share.
        side: of the square images that enter that network; None means its default.
    """

    output: ClassVar[str] = "pooled"
    needs_rows: ClassVar[bool] = False
    needs_real: ClassVar[bool] = True
    min_images: int = 2
    feature: dict[str, Any] | None = None
    side: int | None = None

    @abstractmethod
    def compute(self, real: FeatureSet, fake: FeatureSet) -> dict[str, float]:
        """The numbers named in `values`; both sets have `min_images` or more, one width, and finite features."""

    def pictures(self, real: FeatureSet, fake: FeatureSet, album: Album) -> dict[str, Image.Image]:
        """Pictures that show what the numbers mean, by name; none by default."""
        return {}


class ImageMetric(Measure):
    """`__init__(self, *, options)`; judges each generated image by itself, beside the label that it was drawn from.

    Attributes:
        needs: which of 'cls', 'tags', 'text' labels must have; any one of them is enough.
    """

    needs: ClassVar[tuple[str, ...]] = ()

    def to(self, device: torch.device) -> None:
        """Move its networks."""

    @abstractmethod
    def score(self, images: Tensor, labels: Sequence[Label]) -> Tensor:
        """[B, K] numbers of images [B, 3, H, W] in [-1, 1]; K is always the same."""

    @abstractmethod
    def summarise(self, scores: np.ndarray) -> tuple[dict[str, float], dict[str, Any]]:
        """The numbers named in `values` from the scores [N, K] of all images, and details for the JSON page."""

    def facts(self) -> dict[str, Any]:
        """What the numbers depend on besides the options, such as hashes of networks."""
        return {}


class ModelMetric(Measure):
    """`__init__(self, *, options)`; a property of the generator that its images alone do not show.

    Attributes:
        uses_feature: whether it asks for a feature network, `bench.backbone_of(self)`.
        feature: spec of one of its own, an option marked `Nested("feature", build=False)`; None means the one that all
            metrics share.
        side: of the square images that enter it; None means its default.
    """

    uses_feature: ClassVar[bool] = False
    feature: dict[str, Any] | None = None
    side: int | None = None

    @abstractmethod
    def probe(self, bench: Bench) -> dict[str, float]:
        """The numbers named in `values`."""


# --------------------------------------------------------------------------------------------- data, weights


class Source(ABC):
    """An indexable set of images. `__init__(self, path: str, *, options)`, picklable (it travels to worker processes).

    Raise GankitError in the constructor for a missing or empty path. `image` may raise `gankit.core.images.BadImage`:
    the sample is skipped and its name reported.
    """

    @classmethod
    def matches(cls, path: Path) -> bool:
        """Whether `--data PATH` without a source's name means this one."""
        return False

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def image(self, index: int) -> Image.Image:
        """The decoded image at its own size, in any mode that PIL knows."""

    @abstractmethod
    def label(self, index: int) -> Label:
        """Class, tags, texts; cheap, decodes no image."""

    @abstractmethod
    def name(self, index: int) -> str:
        """A name that lets the user find the image."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Changes when the content does; keys caches and guards resume."""

    def vocabulary(self) -> Vocabulary:
        """Classes and tags that occur; the default reads every label."""
        return Vocabulary.collect(self.label(i) for i in range(len(self)))


class WeightSource(ABC):
    """Offline origin of pretrained weights, asked before the hub and the local cache. Both return None if unknown."""

    def folder(self, hub_id: str) -> Path | None:
        """A folder in the hub's own layout (config.json, tokenizer, model.safetensors)."""
        return None

    def state_dict(self, hub_id: str) -> dict[str, Tensor] | None:
        """Tensors under the names that the library which knows `hub_id` expects."""
        return None

    @abstractmethod
    def ids(self) -> Iterable[str]:
        """The hub ids on offer."""


# ------------------------------------------------------------------------------------------ other code bases


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


# ------------------------------------------------------------------------------------------------- running fast


class Engine(ABC):
    """`__init__(self, *, options)`; makes a generator's synthesis fast on a device, for sampling."""

    fixed_batch: ClassVar[bool] = (
        False  # another batch size costs the set-up anew; short batches are filled up
    )
    draws_noise: ClassVar[bool] = (
        False  # its graphs may draw random numbers; else random noise is one of the inputs
    )
    dtypes: ClassVar[tuple[str, ...]] = ("fp32",)  # precisions that it draws in: 'fp32', 'bf16'
    casts: ClassVar[bool] = False  # it computes in `dtype` by itself; else the module that it prepares does
    dtype: str = "fp32"  # the one that is wanted; gankit sets it before `obstacle` and `prepare`

    def obstacle(self, device: torch.device) -> str | None:
        """What keeps this engine from running on a device, with the way out ('openvino is not installed; ...')."""
        return None

    @abstractmethod
    def prepare(
        self, module: nn.Module, inputs: Mapping[str, Tensor]
    ) -> Callable[[Mapping[str, Tensor]], Tensor]:
        """A fast `lambda inputs: module(**inputs)`, without gradients.

        Args:
            module: a function of tensors without graph breaks; returns images [B, C, H, W], in float32. If `dtype` is
                'bf16', it has bfloat16 inside, unless the engine `casts`.
            inputs: an example; axis 0 is the batch in all of them. What is returned takes other batch sizes too. None
                is in half precision.

        May raise anything: gankit then draws with torch alone, after a warning."""

    def forget(self) -> None:
        """Drop what this process has prepared, so that the next set-up takes as long as a new process's."""


class Exporter(ABC):
    """`__init__(self, *, options)`; writes generators to files of one format, and opens these to check them."""

    suffix: ClassVar[str]  # of the file, such as '.onnx'; companions have the same stem

    def obstacle(self) -> str | None:
        """What keeps it from working here, with the way out ('onnx is not installed; ...')."""
        return None

    @abstractmethod
    def write(self, program: torch.export.ExportedProgram, path: Path) -> None:
        """Write a program of keyword inputs, whose one output are the images; axis 0 of its inputs is dynamic."""

    @abstractmethod
    def open(self, path: Path) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
        """The written file as a user runs it: inputs by name -> images."""
