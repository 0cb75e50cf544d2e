"""Accuracy of a classifier on generated images, per question and answer."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gankit import GankitError
from gankit.core.interfaces.labels import Label
from gankit.core.interfaces.networks import FeatureNetwork, Tap
from gankit.plugins.metrics.accuracy import Accuracy


class Reader(FeatureNetwork):
    """Reads its logits off the first pixels of the first channel."""

    name, num_pooled = "reader", 6
    taps = [Tap(3, 1)]
    input_side, input_multiple = 8, 1

    def __init__(self, answers: dict[str, list[str | None]], count: int) -> None:
        super().__init__()
        self.answers, self.num_logits = answers, count

    def forward(self, images: Tensor) -> list[Tensor]:
        return [images]

    def pooled(self, images: Tensor) -> Tensor:
        return images[:, 0, 0, :6]

    def logits(self, images: Tensor) -> Tensor:
        return images[:, 0, 0, : self.num_logits]


def pictures(*rows: list[float]) -> Tensor:
    images = torch.zeros(len(rows), 3, 8, 8)
    for image, row in zip(images, rows):
        image[0, 0, : len(row)] = torch.tensor(row)
    return images


def test_accuracy_per_question_and_answer() -> None:
    answers = {"class": ["cat", "dog"], "colour": ["red", "blue", "", None], "smiling": ["smile"]}
    metric = Accuracy(classifier=Reader(answers, 7))  # type: ignore[arg-type]
    labels = [
        Label("cat", {"red": 1.0, "smile": 1.0}),
        Label("dog", {"blue": 1.0}),
        Label("dog", {"tall": 1.0}),  # no colour: the answer ''
        Label("cat"),  # nothing is known but the class
        Label(None, {"red": 1.0, "blue": 1.0}),  # two colours, not to be judged
    ]
    images = pictures(
        [1, 0, 0.9, 0, 0, 0, 0.5],  # all right
        [1, 0, 0, 0.9, 0, 0, 0.5],  # wrong class, right colour, smiles wrongly
        [0, 1, 0, 0, 0, 0.9, -0.5],  # 'not visible' where it should be 'none'
        [1, 0, 0.9, 0, 0, 0, 1],
        [1, 0, 0.9, 0, 0, 0, -1],
    )
    values, details = metric.summarise(metric.score(images, labels).double().numpy())
    assert values["accuracy_class"] == 3 / 4
    assert values["accuracy_colour"] == 2 / 3
    assert values["accuracy_smiling"] == 3 / 4
    assert values["accuracy"] == 8 / 11
    assert details["colour"]["red"] == {"accuracy": 1.0, "images": 1}
    assert details["colour"]["none"] == {"accuracy": 0.0, "images": 1}
    assert details["smiling"] == {
        "no smile": {"accuracy": 2 / 3, "images": 3},
        "smile": {"accuracy": 1.0, "images": 1},
    }
    assert set(values) == set(metric.values)


def test_top_1_accuracy_by_classes() -> None:
    metric = Accuracy(classifier=Reader({}, 4), classes={"cat": 2, "dog": 3})  # type: ignore[arg-type]
    labels = [Label("cat"), Label("dog"), Label("dog")]
    values, details = metric.summarise(
        metric.score(pictures([0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0]), labels).numpy()
    )
    assert values["accuracy"] == 2 / 3
    assert values["accuracy_se"] == pytest.approx(math.sqrt(2 / 3 * 1 / 3 / 3))
    assert details["class"] == {"cat": {"accuracy": 1, "images": 1}, "dog": {"accuracy": 0.5, "images": 2}}
    with pytest.raises(GankitError, match="unknown class 'bird'"):
        metric.score(pictures([0.0]), [Label("bird")])
    by_number = Accuracy(classifier=Reader({}, 4))  # type: ignore[arg-type]
    assert by_number.score(pictures([0, 1]), [Label("1")]).tolist() == [[1, 1]]
    with pytest.raises(GankitError, match="'cat' is not a number of a class of 'reader'"):
        by_number.score(pictures([0, 1]), [Label("cat")])


def test_accuracy_is_not_made_of_nan_or_nothing() -> None:
    metric = Accuracy(classifier=Reader({"class": ["cat", "dog"]}, 2))  # type: ignore[arg-type]
    assert not metric.score(pictures([math.nan, 0]), [Label("cat")]).isfinite().all()
    with pytest.raises(GankitError, match="none of the labels of 1 images answers the question 'class'"):
        metric.summarise(metric.score(pictures([1, 0]), [Label(None, {"red": 1.0})]).numpy())
    with pytest.raises(GankitError, match="unknown class 'cow'"):
        metric.score(pictures([1, 0]), [Label("cow")])
    with pytest.raises(GankitError, match="has no classifier"):
        Accuracy(classifier=Reader({}, 0))  # type: ignore[arg-type]
