"""The metric 'accuracy': share of classes and tags that a classifier recognises in the generated images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from gankit.core.config.options import Nested
from gankit.core.interfaces.labels import Label
from gankit.core.interfaces.networks import FeatureNetwork
from gankit.errors import GankitError, unknown
from gankit.evaluation.backbone import RESIZE, resize
from gankit.evaluation.metric import ImageMetric
from gankit.evaluation.metric_context import entry_side

DEIT = {"name": "timm-vit", "model": "deit_small_distilled_patch16_224.fb_in1k"}
CLASS = "class"


class Accuracy(ImageMetric):
    """Share of questions about the label, one for its class or one for each kind of tag, that a classifier answers
    correctly from the generated image alone (classification accuracy score of a fixed classifier; top-1 for classes).

    A classifier that declares `answers`, question -> the meaning of each of its logits, is asked all of these. The
    answers are classes for the question 'class' and tags for the others; '' means none of the others, null an answer
    that is not judged. A question with a single answer is a yes (logit above 0) or no. Any other classifier is asked
    for the class, which `classes` maps to its logits. `accuracy` is over all questions that labels answer; the details
    have each class and tag.

    Args:
        classifier: feature network with a classifier, on which the model should not have been trained.
        classes: class of the data -> index of the classifier's logit, e.g. {tabby: 281}; null takes the names of the
            classes as indices.
        side: side in pixels of the square images that enter the classifier; that of its training when omitted.
    """

    needs = ("cls", "tags")
    conformance = {
        "classifier": {"name": "timm-vit", "model": "test_vit.r160_in1k", "pretrained": False},
        "classes": {"cat": 0, "dog": 1},
        "side": 32,
    }

    def __init__(
        self,
        *,
        classifier: Annotated[FeatureNetwork, Nested("feature")] = DEIT,  # type: ignore[assignment]
        classes: dict[str, int] | None = None,
        side: int | None = None,
    ) -> None:
        if not classifier.num_logits:
            raise GankitError(
                f"feature {classifier.name!r} of metric 'accuracy' has no classifier; choose another"
            )
        self.classifier, self.classes = classifier, classes
        self.side = entry_side(classifier, side)
        self.questions: Mapping[str, Sequence[str | None]] = classifier.answers
        if not self.questions:
            for name, index in (classes or {}).items():
                if not 0 <= index < classifier.num_logits:
                    raise GankitError(
                        f"class {name!r} of metric 'accuracy' has index {index}, but {classifier.name!r} knows 0 to "
                        f"{classifier.num_logits - 1}"
                    )
            self.questions = {CLASS: [str(i) for i in range(classifier.num_logits)]}
        named = {f"accuracy_{name}": "higher" for name in self.questions} if classifier.answers else {}
        self.values = {"accuracy": "higher", "accuracy_se": "", **named}

    def to(self, device: torch.device) -> None:
        self.classifier.to(device)

    def score(self, images: Tensor, labels: Sequence[Label]) -> Tensor:
        """Indices of answers [B, 2 x questions]: for each question the correct one, -1 if the label has none, and
        the given one, NaN if logits are not finite."""
        entering = images if self.classifier.own_resize else resize(images, self.side)
        logits = self.classifier.logits(entering).float()
        logits = torch.where(logits.isfinite().all(1, keepdim=True), logits, torch.nan)
        columns = []
        for (question, answers), own in zip(self.questions.items(), logits.split(self._widths(), 1)):
            right = [self._right(question, answers, label) for label in labels]
            given = (own[:, 0] > 0).float() if len(answers) == 1 else own.argmax(1).float()
            given = torch.where(
                own.isfinite().all(1), given, torch.nan
            )  # reported, never counted as an answer
            columns += [torch.tensor(right, device=given.device, dtype=torch.float32), given]
        return torch.stack(columns, 1)

    def _widths(self) -> list[int]:
        return [len(answers) for answers in self.questions.values()]

    def _right(self, question: str, answers: Sequence[str | None], label: Label) -> int:
        """Index of the correct answer for a label, -1 if the label does not answer the question."""
        if not self.classifier.answers:
            return -1 if label.cls is None else self._index(label.cls)
        given = {label.cls} if question == CLASS else set(label.tags)
        if question == CLASS and label.cls is not None and label.cls not in answers:
            known = [answer for answer in answers if answer]
            raise GankitError(
                unknown("class", label.cls, known, hint=f"of classifier {self.classifier.name!r}")
            )
        if (question == CLASS and label.cls is None) or (question != CLASS and not label.tags):
            return -1
        if len(answers) == 1:
            return int(answers[0] in given)
        found = [i for i, answer in enumerate(answers) if answer and answer in given]
        if found:
            return found[0] if len(found) == 1 else -1
        return answers.index("") if "" in answers else -1

    def _index(self, name: str) -> int:
        if self.classes is not None:
            if name not in self.classes:
                raise GankitError(
                    unknown("class", name, self.classes, hint="in option classes of metric 'accuracy'")
                )
            return self.classes[name]
        if name.isascii() and name.isdigit() and int(name) < self.classifier.num_logits:
            return int(name)
        raise GankitError(
            f"class {name!r} is not a number of a class of {self.classifier.name!r}; give metric 'accuracy' the option "
            "classes, e.g. --set 'accuracy.classes={" + name + ": 281}'"
        )

    def summarise(self, scores: np.ndarray) -> tuple[dict[str, float], dict[str, Any]]:
        values: dict[str, float] = {}
        details: dict[str, Any] = {}
        right = asked = 0
        names = {index: name for name, index in (self.classes or {}).items()}
        per_image = np.zeros((2, len(scores)))
        for i, (question, answers) in enumerate(self.questions.items()):
            wanted, given = scores[:, 2 * i], scores[:, 2 * i + 1]
            judged = wanted >= 0
            if not judged.any():
                raise GankitError(
                    f"metric 'accuracy': none of the labels of {len(scores)} images answers the question {question!r}; "
                    "raise --num, or take a classifier for what the data is labelled with"
                )
            hits = (wanted == given) & judged
            per_image += [hits, judged]
            right, asked = right + int(hits.sum()), asked + int(judged.sum())
            values[f"accuracy_{question}"] = float(hits.sum() / judged.sum())
            table = {}
            for index in np.unique(wanted[judged]).astype(int):
                these = wanted == index
                name = (("no ", "")[index] + str(answers[0])) if len(answers) == 1 else answers[index]
                name = names.get(index, name) if not self.classifier.answers else name
                table[name or "none"] = {"accuracy": float(hits[these].mean()), "images": int(these.sum())}
            details[question] = table
        accuracy = right / asked
        # standard error over images: answers about one image are correlated
        error = math.sqrt(np.square(per_image[0] - accuracy * per_image[1]).sum()) / asked
        values = {k: v for k, v in values.items() if k in self.values}
        return {"accuracy": accuracy, "accuracy_se": error, **values}, details

    def facts(self) -> dict[str, Any]:
        resized = self.classifier.own_resize or RESIZE
        return {"feature": {**self.classifier.identity(), "input": self.side, "resize": resized}}
