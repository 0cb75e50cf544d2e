"""The files of a package with a small plugin of every kind."""

from __future__ import annotations

TARGETS = {
    "generator": "kinds.things:KindGenerator",
    "discriminator": "kinds.things:KindDiscriminator",
    "feature": "kinds.things:KindFeature",
    "conditioner": "kinds.things:KindConditioner",
    "loss": "kinds.things:KindLoss",
    "regularizer": "kinds.things:KindRegularizer",
    "optimizer": "kinds.things:KindOptimizer",
    "guidance": "kinds.things:KindGuidance",
    "augmentation": "kinds.things:KindAugmentation",
    "source": "kinds.things:KindSource",
    "weights": "kinds.things:KindWeights",
    "importer": "kinds.things:KindImporter",
    "exporter": "kinds.things:KindExporter",
    "engine": "kinds.things:KindEngine",
    "op-backend": "kinds.things:KindOps",
    "metric": "kinds.things:KindMetric",
    "tracker": "kinds.things:KindTracker",
    "recipe": "kinds:pages/recipe.yaml",
    "model": "kinds:model",
    "command": "kinds.commands:greet",
}

THINGS = '''
"""One small plugin of every kind that is a class."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
from PIL import Image
from torch import nn

from gankit import GankitError
from gankit import interfaces as contracts
from gankit.interfaces import Condition, CondSpec, FeatureNetwork, Label, Nested, Tap, Vocabulary
from gankit.interfaces import embedding_of, find_state_dict, rand


class KindGenerator(contracts.Generator):
    """One linear layer.

    Args:
        z_dim: width of the latent.
    """

    def __init__(self, image_shape: tuple[int, int, int], cond: CondSpec, *, z_dim: int = 8) -> None:
        super().__init__()
        self.z_dim = self.w_dim = z_dim
        self.num_ws, self.image_shape = 1, image_shape
        self.embed = nn.Linear(cond.c_dim, z_dim) if cond.c_dim else None
        self.out = nn.Linear(z_dim, image_shape[0] * image_shape[1] * image_shape[2])

    def mapping(self, z, cond=None, *, truncation_psi=1, truncation_cutoff=None, update_emas=False):
        w = z * truncation_psi
        return (w if self.embed is None else w + self.embed(embedding_of(cond)))[:, None]

    def synthesis(self, ws, cond=None, *, noise_mode="random"):
        return torch.tanh(self.out(ws[:, 0])).unflatten(1, self.image_shape)


class KindDiscriminator(contracts.Discriminator):
    """A linear layer on frozen features.

    Args:
        feature: the frozen network.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        cond: CondSpec,
        *,
        feature: Annotated[FeatureNetwork, Nested("feature")] = {"name": "kind-feature"},
    ) -> None:
        super().__init__()
        if image_shape[0] != 3:
            raise GankitError("discriminator 'kind-discriminator' judges RGB images only; set data.channels = 3")
        self.feature = feature
        self.out = nn.Linear(feature.num_pooled, 1)
        self.embed = nn.Linear(cond.c_dim, feature.num_pooled) if cond.c_dim else None

    def features(self, images):
        return self.feature.pooled(images)

    def score(self, features, cond=None):
        logits = self.out(features)
        if self.embed is None:
            return [logits]
        return [logits + (features * self.embed(embedding_of(cond))).sum(1, keepdim=True)]


class KindFeature(FeatureNetwork):
    """A convolution with weights from a weight source."""

    name, num_pooled, num_logits, input_multiple = "kinds/stem", 4, 0, 4
    taps = [Tap(4, 4)]

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 4, stride=4)
        self.load_state_dict(find_state_dict("kinds/stem"))
        self.eval().requires_grad_(False)

    def forward(self, images):
        return [torch.sigmoid(self.stem(images))]

    def pooled(self, images):
        return self(images)[0].mean((2, 3))


class KindWeights(contracts.WeightSource):
    """Weights from nowhere."""

    def ids(self):
        return ["kinds/stem"]

    def state_dict(self, hub_id):
        if hub_id != "kinds/stem":
            return None
        weight = torch.linspace(-1, 1, 4 * 48).view(4, 3, 4, 4)
        return {"stem.weight": weight, "stem.bias": torch.zeros(4)}


class KindConditioner(contracts.Conditioner):
    """A number for the class: its place in the alphabet of classes.

    Args:
        scale: of that number.
    """

    accepts = frozenset({"cls"})

    def __init__(self, *, scale: float = 1.0) -> None:
        super().__init__()
        self.scale, self.spec = scale, CondSpec(2)
        self.classes = {}

    def set_vocabulary(self, vocabulary):
        self.classes = dict(sorted(vocabulary.classes.items()))

    def vocabulary(self):
        return Vocabulary(classes=self.classes)

    def encode(self, labels):
        rows = []
        for label in labels:
            if label.cls is not None and label.cls not in self.classes:
                raise GankitError(f"unknown class {label.cls!r}")
            place = -1 if label.cls is None else list(self.classes).index(label.cls)
            rows.append([self.scale * place, float(label.cls is not None)])
        return Condition(torch.tensor(rows))


class KindLoss(contracts.AdversarialLoss):
    """The loss of Wasserstein GANs."""

    def d_loss(self, real, fake):
        return torch.stack([f.mean(1) - r.mean(1) for r, f in zip(real, fake)]).sum(0)

    def g_loss(self, fake, real=None):
        return torch.stack([-f.mean(1) for f in fake]).sum(0)


class KindRegularizer(contracts.Regularizer):
    """Keeps logits small.

    Args:
        interval: compute it every so many steps.
    """

    side = "D"

    def __init__(self, *, interval: int = 2) -> None:
        super().__init__()
        self.interval = interval

    def penalty(self, step):
        return torch.cat(step.D(step.augment(step.real), step.cond), 1).square().mean(1)


class KindOptimizer(contracts.Optimizer):
    """Gradient descent with momentum.

    Args:
        momentum: factor on the step before.
    """

    def __init__(self, *, momentum: float = 0.5) -> None:
        self.momentum = momentum

    def make(self, groups):
        return torch.optim.SGD(groups, momentum=self.momentum)


class KindGuidance(contracts.Guidance):
    """Brighter images for longer captions.

    Args:
        weight: factor of the loss.
    """

    def __init__(self, *, weight: float = 0.1) -> None:
        super().__init__()
        self.weight = weight

    def loss(self, images, cond, labels):
        lengths = torch.tensor([float(len(label.text or "")) for label in labels])
        return (images.mean((1, 2, 3)) - lengths / 100).square()


class KindAugmentation(contracts.Augmentation):
    """Mirrors some of the images.

    Args:
        p: probability of it.
    """

    channels = (1, 3)

    def __init__(self, image_shape: tuple[int, int, int], *, p: float = 0.5) -> None:
        super().__init__()
        self.p = p
        self.register_buffer("updates", torch.zeros(()))

    def forward(self, images):
        mirrored = rand(len(images), 1, 1, 1, device=images.device) < self.p
        return torch.where(mirrored, images.flip(3), images)

    def update(self, real_signs, nimg, batch):
        self.updates += 1


class KindSource(contracts.Source):
    """Plain squares.

    Args:
        count: number of images.
    """

    def __init__(self, path: str, *, count: int = 12) -> None:
        self.count = count

    def __len__(self):
        return self.count

    def image(self, index):
        return Image.new("RGB", (8, 8), (index * 20, 0, 255 - index * 20))

    def label(self, index):
        return Label(("blue", "red")[index * 2 // self.count], texts=(f"square {index}",))

    def name(self, index):
        return f"square {index}"

    def fingerprint(self):
        return f"squares {self.count}"


class KindImporter(contracts.Importer):
    """Networks of another code base that are one linear layer, too."""

    classes = ("LinearNet",)

    def recognises(self, network):
        return network.class_name in self.classes and "layer.weight" in network.tensors

    def convert(self, network):
        pixels, z_dim = network.shape("layer.weight", 2)
        side = network.integer("", "side", high=64)
        return contracts.Imported(
            "generator",
            {"name": "kind-generator", "z_dim": z_dim},
            (pixels // side**2, side, side),
            {name.replace("layer", "out"): tensor for name, tensor in network.tensors.items()},
        )


class KindExporter(contracts.Exporter):
    """The program in a zip file of torch, under another name.

    Args:
        note: a line beside it.
    """

    suffix = ".kind"

    def __init__(self, *, note: str = "") -> None:
        self.note = note

    def write(self, program, path):
        torch.export.save(program, path.with_suffix(".pt2"))
        path.write_text(self.note)

    def open(self, path):
        module = torch.export.load(path.with_suffix(".pt2")).module()
        return lambda inputs: module(**{k: torch.from_numpy(v) for k, v in inputs.items()}).numpy()


class KindOps(contracts.OpBackend):
    """An activation of its own, by the definition."""

    def obstacle(self, device):
        return None

    def bias_act(self, x, b, dim, act, alpha, gain, clamp):
        if act != "lrelu" or b is None:
            return NotImplemented  # plain torch does it
        x = x + b.to(x.dtype).reshape([-1 if axis == dim else 1 for axis in range(x.ndim)])
        y = gain * nn.functional.leaky_relu(x, alpha)
        return y if clamp is None else y.clamp(-clamp, clamp)


class KindEngine(contracts.Engine):
    """Counts what it draws.

    Args:
        step: of the count.
    """

    drawn = 0

    def __init__(self, *, step: int = 1) -> None:
        self.step = step

    def prepare(self, module, inputs):
        def draw(inputs):
            KindEngine.drawn += self.step * len(inputs["ws"])
            return module(**inputs)

        return draw


class KindMetric(contracts.Metric):
    """How far apart the means are.

    Args:
        scale: of that distance.
    """

    values = {"distance": "lower"}

    def __init__(self, *, scale: float = 1.0) -> None:
        self.scale = scale

    def compute(self, real, fake):
        return {"distance": self.scale * float(abs(real.moments.mean - fake.moments.mean).sum())}


class KindTracker(contracts.Tracker):
    """Lines in a text file.

    Args:
        file: its name.
    """

    def __init__(self, run_dir: Path, *, file: str = "events.txt") -> None:
        self.path = Path(run_dir) / file

    def _write(self, line):
        with open(self.path, "a") as file:
            file.write(line + "\\n")

    def on_tick(self, nimg, scalars):
        self._write(f"tick {nimg} " + " ".join(sorted(scalars)))

    def on_images(self, nimg, name, path):
        self._write(f"images {nimg} {Path(path).name}")

    def close(self):
        self._write("close")
'''

RECIPE = """
    gankit: 1
    name: kind-recipe
    description: every kind of plugin in one recipe
    data: {path: "kind-source:", size: 8, options: {count: 10}}
    conditioner: {name: kind-conditioner, scale: 0.5}
    generator: kind-generator
    discriminator: {name: kind-discriminator, feature: {name: kind-feature}}
    loss: kind-loss
    regularizers: {kind-regularizer: {interval: 2}}
    optimizer_g: kind-optimizer
    optimizer_d: {name: kind-optimizer, momentum: 0.0}
    guidance: {kind-guidance: {}}
    augmentation: {name: kind-augmentation, p: 0.25}
    trackers: {kind-tracker: {file: events.txt}}
    train: {images: 32, batch: 4, workers: 0, tick: 8}
"""

COMMAND = '''
"""A command."""

from typing import Annotated

import typer


def greet(name: str, times: Annotated[int, typer.Option(help="How often.")] = 1) -> None:
    """Say hello."""
    for _ in range(times):
        print(f"hello {name}")
'''
