"""Labels of images (class, tags, texts) and the vocabulary of a data set; does not import torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Label:
    """Label of a training image, or a user's request for a generated one. Every field may be absent.

    Args:
        cls: name of the class.
        tags: tag -> weight in (0, 1].
        texts: captions; training draws one of them each time, sampling uses the first.
    """

    cls: str | None = None
    tags: Mapping[str, float] = field(default_factory=dict)
    texts: tuple[str, ...] = ()

    @property
    def text(self) -> str | None:
        return self.texts[0] if self.texts else None


@dataclass
class Vocabulary:
    """Classes and tags of a data set with their counts, most frequent first; numbers of captioned and of all images."""

    classes: dict[str, int] = field(default_factory=dict)
    tags: dict[str, int] = field(default_factory=dict)
    captioned: int = 0
    total: int = 0

    @classmethod
    def collect(cls, labels: Iterable[Label]) -> Vocabulary:
        classes: Counter[str] = Counter()
        tags: Counter[str] = Counter()
        captioned = total = 0
        for label in labels:
            total += 1
            if label.cls is not None:
                classes[label.cls] += 1
            tags.update(label.tags.keys())
            captioned += bool(label.texts)

        def order(counter: Counter[str]) -> dict[str, int]:
            return dict(sorted(counter.items(), key=lambda item: (-item[1], item[0])))

        return cls(order(classes), order(tags), captioned, total)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Vocabulary:
        return cls(
            dict(data.get("classes", {})),
            dict(data.get("tags", {})),
            int(data.get("captioned", 0)),
            int(data.get("total", 0)),
        )
