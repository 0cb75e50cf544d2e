"""Labels of images (class, tags, texts, further fields) and the vocabulary of a data set; does not import torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from keyword import iskeyword
from typing import Any, NamedTuple

MAX_DEPTH = 16  # of lists and mappings in a value


class Words(NamedTuple):
    """How a field of labels is spoken of."""

    many: str  # of a data set: "the data has classes"
    one: str  # of a label: "it needs a class for each image"
    wish: str  # of a request: "this model takes a class"
    call: str  # in a call of `gankit.sampling.pipeline.Pipeline`


COMMON = {  # the fields that have an attribute of `Label`; all others are in `Label.fields`
    "text": Words("captions", "a caption", "a prompt", "'a prompt'"),
    "tags": Words("tags", "tags", "tags", "tags=['a', 'b']"),
    "cls": Words("classes", "a class", "a class", "cls='a class'"),
}


# Arguments of a request (`gankit.sampling.pipeline.Pipeline`), which gives fields as keyword arguments beside them
RESERVED = ("self", "prompt", "tags", "cls", "seeds", "psi", "center", "noise_mode", "batch_size", "fields")


def usable(field: str) -> bool:
    """True if a request can give a field of this name, `pipe(name=...)`."""
    return field.isidentifier() and not iskeyword(field) and field not in RESERVED


def words(field: str) -> Words:
    """How a field is spoken of: 'text', 'tags', 'cls', or the name of another."""
    quoted = repr(field)
    return COMMON.get(field) or Words(quoted, quoted, quoted, f"{field}=...")


def ordered(fields: Iterable[str]) -> list[str]:
    """Names of fields in the order in which they are listed: that of `COMMON`, then the others by name."""
    fields = set(fields)
    return [name for name in COMMON if name in fields] + sorted(fields - COMMON.keys())


def listed(phrases: Sequence[str], word: str = "and") -> str:
    """'a, b and c' of phrases, the first 12 of them; `word` is 'and' or 'or'."""
    phrases = [*phrases[:12], f"{len(phrases) - 12} more"] if len(phrases) > 12 else list(phrases)
    return f" {word} ".join(filter(None, [", ".join(phrases[:-1]), *phrases[-1:]]))


class _Empty(dict[str, Any]):
    """The mapping of all labels without tags or fields: one for a million of them."""

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise TypeError("labels are frozen; make another one by dataclasses.replace")

    __setitem__ = setdefault = update = __ior__ = _refuse

    def __reduce__(self) -> str:  # pickled and copied by name
        return "EMPTY"


EMPTY = _Empty()


@dataclass(frozen=True, slots=True)
class Label:
    """Label of a training image, or a user's request for a generated one. Every field may be absent.

    Args:
        cls: name of the class.
        tags: tag -> weight in (0, 1].
        texts: captions; training draws one of them each time, sampling uses the first.
        fields: anything else that is known, by name, such as {'box': [0.1, 0.2, 0.5, 0.6], 'angle': 30}; values mean
            what the conditioner that accepts them says, for which they must be as `plain` returns them.
    """

    cls: str | None = None
    tags: Mapping[str, float] = field(default_factory=lambda: EMPTY)
    texts: tuple[str, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=lambda: EMPTY)

    @property
    def text(self) -> str | None:
        return self.texts[0] if self.texts else None

    def has(self, field: str) -> bool:
        """True if a field is given: 'cls', 'tags', 'text', or one of `fields`."""
        common = {"cls": self.cls is not None, "tags": bool(self.tags), "text": bool(self.texts)}
        return common.get(field, field in self.fields)


def plain(value: Any, depth: int = MAX_DEPTH) -> Any:
    """A value of `Label.fields` in its stored form: text, bool, finite number, None, or a list or mapping of these.

    Tuples become lists; arrays and tensors become lists or numbers (by `tolist`). Raises ValueError for anything else,
    numbers that are not finite, keys that are not text, and nesting deeper than 16; the message follows "must be".
    """
    if depth < 0:
        raise ValueError(f"nested at most {MAX_DEPTH} deep")
    if hasattr(value, "tolist"):  # numpy's float64 is a float as well
        value = value.tolist()
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, (int, float)):
        if not -math.inf < value < math.inf:
            raise ValueError(f"finite, not {value}")
        return value
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("a mapping whose keys are text")
        return {key: plain(part, depth - 1) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part, depth - 1) for part in value]
    raise ValueError(f"text, a number, or a list or mapping of these, not {type(value).__name__}")


@dataclass
class Vocabulary:
    """Classes, tags and names of further fields of a data set with their counts, most frequent first; numbers of
    captioned and of all images."""

    classes: dict[str, int] = field(default_factory=dict)
    tags: dict[str, int] = field(default_factory=dict)
    captioned: int = 0
    total: int = 0
    fields: dict[str, int] = field(default_factory=dict)

    @property
    def present(self) -> list[str]:
        """The fields of labels that an image has, such as ['tags', 'cls', 'box']."""
        common = {"cls": self.classes, "tags": self.tags, "text": self.captioned}
        return ordered([*(name for name, found in common.items() if found), *self.fields])

    @classmethod
    def collect(cls, labels: Iterable[Label]) -> Vocabulary:
        classes: Counter[str] = Counter()
        tags: Counter[str] = Counter()
        fields: Counter[str] = Counter()
        captioned = total = 0
        for label in labels:
            total += 1
            if label.cls is not None:
                classes[label.cls] += 1
            tags.update(label.tags.keys())
            fields.update(label.fields.keys())
            captioned += bool(label.texts)

        def order(counter: Counter[str]) -> dict[str, int]:
            return dict(sorted(counter.items(), key=lambda item: (-item[1], item[0])))

        return cls(order(classes), order(tags), captioned, total, order(fields))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Vocabulary:
        return cls(
            dict(data.get("classes", {})),
            dict(data.get("tags", {})),
            int(data.get("captioned", 0)),
            int(data.get("total", 0)),
            dict(data.get("fields", {})),
        )
