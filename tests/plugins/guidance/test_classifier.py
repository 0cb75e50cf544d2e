"""Guidance by a classifier, on tiny classifiers with random weights."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy, interpolate

from gankit.core.config import options
from gankit.core.interfaces.conditions import Condition
from gankit.core.interfaces.labels import Label
from gankit.core.interfaces.networks import FeatureNetwork
from gankit.errors import GankitError
from gankit.plugins.guidance.classifier import ClassifierGuidance

GIVEN = Condition()


class ColourClassifier(FeatureNetwork):
    """Logits are linear in the mean colour of the image's left half."""

    name = "colours"
    input_multiple = 4

    def __init__(self, num_logits: int = 5) -> None:
        super().__init__()
        self.num_logits = num_logits
        self.linear = torch.nn.Linear(3, max(num_logits, 1)).requires_grad_(False)
        self.seen = ()

    def forward(self, images):
        raise NotImplementedError

    pooled = forward

    def logits(self, images):
        self.seen = tuple(images.shape)
        return self.linear(images[:, :, :, : images.shape[3] // 2].mean((2, 3)))


def classes(*names: str) -> list[Label]:
    return [Label(cls=name) if name else Label() for name in names]


def test_classifier_loss_is_cross_entropy_with_the_mapped_class():
    network = ColourClassifier()
    guidance = ClassifierGuidance(feature=network, classes={"cat": 3, "dog": 0}, temperature=2.0, side=8)
    images = (torch.rand(3, 3, 5, 6) * 2 - 1).requires_grad_()
    loss = guidance.loss(images, GIVEN, classes("cat", "", "dog"))
    assert network.seen == (2, 3, 8, 8)
    inputs = interpolate(images[[0, 2]].detach(), (8, 8), mode="bilinear")
    expected = cross_entropy(network.logits(inputs) / 2, torch.tensor([3, 0]), reduction="none")
    torch.testing.assert_close(loss[[0, 2]], expected)
    assert loss[1] == 0
    loss.sum().backward()
    assert (images.grad.abs().amax((1, 2, 3)) > 0).tolist() == [True, False, True]


def test_classifier_takes_numbers_as_indices_and_skips_hidden_classes():
    guidance = ClassifierGuidance(feature=ColourClassifier(), side=8)
    images = torch.rand(2, 1, 8, 8)
    plain = guidance.loss(images, GIVEN, classes("4", "0"))
    hidden = guidance.loss(images, Condition(torch.tensor([[1.0, 0.0], [0.0, 0.0]])), classes("4", "0"))
    assert hidden[0] == plain[0] > 0
    assert hidden[1] == 0
    mapped = ClassifierGuidance(feature=guidance.feature, classes={"a": 4, "b": 0}, side=8)
    assert torch.equal(mapped.loss(images, GIVEN, classes("a", "b")), plain)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"classes": {"cat": 5}}, "class 'cat' .* has index 5, but 'colours' knows the 5 classes 0 to 4"),
        ({"side": 222}, "multiple of 4"),
        ({"temperature": 0.0}, "temperature = 0.0"),
        ({"feature": ColourClassifier(0)}, "has no classifier"),
    ],
)
def test_classifier_refuses_options_that_cannot_work(kwargs, message):
    with pytest.raises(GankitError, match=message):
        ClassifierGuidance(**{"feature": ColourClassifier(), "side": 8, **kwargs})


def test_classifier_names_a_class_that_it_cannot_place():
    images = torch.rand(1, 3, 8, 8)
    numbers = ClassifierGuidance(feature=ColourClassifier(), side=8)
    with pytest.raises(GankitError, match=r"class 'cat' is not a number .* option classes"):
        numbers.loss(images, GIVEN, classes("cat"))
    with pytest.raises(GankitError, match="index 7, but"):
        numbers.loss(images, GIVEN, classes("7"))
    mapped = ClassifierGuidance(feature=ColourClassifier(), side=8, classes={"cat": 1})
    with pytest.raises(GankitError, match="unknown class 'cta'; did you mean 'cat'"):
        mapped.loss(images, GIVEN, classes("cta"))


def test_classifier_is_built_from_a_recipe_on_a_timm_model():
    feature = {"name": "timm-cnn", "model": "test_resnet", "pretrained": False}
    guidance = options.build("guidance", {"name": "classifier", "feature": feature, "side": 64})
    images = (torch.rand(2, 3, 16, 16) * 2 - 1).requires_grad_()
    loss = guidance.loss(images, GIVEN, classes("7", "300"))
    loss.sum().backward()
    assert loss.shape == (2,)
    assert (images.grad != 0).any()
    defaults = options.check("guidance", "classifier")
    assert defaults["feature"]["model"].startswith("deit_small_distilled_patch16_224")
    assert defaults["weight"] == 8
