"""Conformance checks of conditioners, sources and weight sources."""

from __future__ import annotations

import contextlib
import copy
import json
import pickle
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from gankit.core.interfaces import contracts
from gankit.core.interfaces.conditions import Condition, Conditioner
from gankit.core.interfaces.data import Source, WeightSource
from gankit.core.interfaces.labels import COMMON, Label, Vocabulary, plain
from gankit.errors import GankitError
from gankit.testing.common import (
    BATCH,
    Subject,
    assert_close,
    assert_finite,
    assert_keyed,
    refuses,
    reload,
)
from gankit.testing.training import LABELS

OTHERS = {  # field of a label -> a label with another value of it
    "cls": lambda label: replace(label, cls="dog" if label.cls == "cat" else "cat"),
    "tags": lambda label: replace(label, tags={"blue": 1.0} if "red" in label.tags else {"red": 1.0}),
    "text": lambda label: replace(label, texts=("something else altogether",)),
}
UNREAD = "conformance_unread"  # a field that no conditioner accepts


# --------------------------------------------------------------------------------------------- conditioner


def _conditioner(subject: Subject, seed: int = 0) -> tuple[Conditioner, list[Label]]:
    """The conditioner, which knows the vocabulary of the labels, and labels with all fields that it may read."""
    conditioner: Conditioner = subject.build(seed=seed)
    labels = with_examples(LABELS, conditioner)
    conditioner.set_vocabulary(Vocabulary.collect(labels))
    contracts.with_vocabulary(conditioner)
    return conditioner, labels


def with_examples(labels: Sequence[Label], conditioner: Conditioner) -> list[Label]:
    """Labels with values of the conditioner's own fields, in turn its `examples`."""
    examples = conditioner.examples()
    return [
        replace(label, fields={name: values[i % len(values)] for name, values in examples.items()})
        for i, label in enumerate(labels)
    ]


def _assert_fits(subject: Subject, conditioner: Conditioner, cond: Condition, what: str) -> None:
    """Assert that a condition has the parts and widths that the spec promises, and finite values."""
    contracts.condition(conditioner, cond, BATCH, what)
    for part in (cond.embedding, cond.tokens):
        if part is not None:
            assert_finite(part, f"{subject}: the condition")
    if cond.mask is not None:
        assert cond.mask.dtype == torch.bool, f"{subject}: the mask is {cond.mask.dtype}, not bool"


def _assert_same(one: Condition, two: Condition, what: str) -> None:
    for a, b in ((one.embedding, two.embedding), (one.tokens, two.tokens), (one.mask, two.mask)):
        assert (a is None) == (b is None), f"{what}: a part is missing"
        if a is not None and b is not None:
            assert_close(a.float(), b.float(), what)


def check_conditioner_encode(subject: Subject) -> None:
    """Conditions have the parts and widths of `spec`, also for empty labels and after `augment`."""
    conditioner, full = _conditioner(subject)
    for labels in (full, [Label()] * BATCH, [full[0], Label(), full[1], Label()]):
        cond = conditioner.encode(labels)
        _assert_fits(subject, conditioner, cond, "encode")
        _assert_same(conditioner.encode(labels), cond, f"{subject}: encoding twice")
        _assert_fits(subject, conditioner, conditioner.augment(cond), "augment")


def check_conditioner_examples(subject: Subject) -> None:
    """Each field of its own has examples, two or more valid values."""
    conditioner, labels = _conditioner(subject)
    own, examples = conditioner.accepts - COMMON.keys(), conditioner.examples()
    assert own == examples.keys(), f"{subject} accepts {sorted(own)}, but has examples of {sorted(examples)}"
    for name, values in examples.items():
        assert len(values) > 1, f"{subject}: examples() gives fewer than two values of {name!r}"
        assert len({json.dumps(plain(value), sort_keys=True) for value in values}) == len(values), (
            f"{subject}: examples() gives a value of {name!r} twice"
        )
    for label in [*labels, Label()]:
        conditioner.check(label)


def check_conditioner_fields(subject: Subject) -> None:
    """The condition depends on every field that is in `accepts`, and on no other."""
    conditioner, labels = _conditioner(subject)
    changes: dict[str, Callable[[Label], Label]] = {
        **OTHERS,
        UNREAD: lambda label: replace(label, fields={**label.fields, UNREAD: 1}),
    }
    for name, values in conditioner.examples().items():
        changes[name] = lambda label, name=name, values=values: replace(  # type: ignore[misc]
            label, fields={**label.fields, name: next(v for v in values if v != label.fields[name])}
        )
    before = conditioner.encode(labels).embedding
    for field, change in changes.items():
        after = conditioner.encode([change(label) for label in labels]).embedding
        if before is None or after is None:
            continue
        same = (before == after).all(1)
        if field in conditioner.accepts:
            assert not same.any(), f"{subject} accepts {field!r}, but other {field} give the same condition"
        else:
            assert same.all(), f"{subject} does not accept {field!r}, but reads it"


def check_conditioner_mirror(subject: Subject) -> None:
    """Mirrored twice, a label is what it was; where mirroring is not known, it is not for any label."""
    conditioner, labels = _conditioner(subject)
    for label in [*labels, Label()]:
        once = conditioner.mirror(label)
        if once is None:
            assert conditioner.mirror(Label()) is None, f"{subject}: mirror() is None for some labels only"
            continue
        conditioner.check(once)
        twice = conditioner.mirror(once)
        assert twice is not None, f"{subject}: mirror() is None for some labels only"
        one, two = (conditioner.encode([x]) for x in (label, twice))
        _assert_same(two, one, f"{subject}: the condition of a label mirrored twice")


def check_conditioner_unknown(subject: Subject) -> None:
    """An unknown class or tag, and a value of a wrong type, raise GankitError."""
    conditioner, _ = _conditioner(subject)
    wishes = {"cls": Label(cls="no such class"), "tags": Label(tags={"no such tag": 1.0})}
    for field, wish in wishes.items():
        if field in conditioner.accepts:
            refuses(lambda wish=wish: conditioner.encode([wish]), f"{subject}, {wish}")  # type: ignore[misc]
    for field in conditioner.examples():
        wish = Label(fields={field: {"no": ["such", "value"]}})
        refuses(lambda wish=wish: conditioner.check(wish), f"{subject}, check of {wish}")  # type: ignore[misc]
        refuses(lambda wish=wish: conditioner.encode([wish]), f"{subject}, {wish}")  # type: ignore[misc]
    with contextlib.suppress(GankitError):  # it may insist on data that it can use
        subject.build().set_vocabulary(Vocabulary())


def check_conditioner_state(subject: Subject) -> None:
    """Stored vocabulary and tensors rebuild it; a deepcopy and `prepare` leave conditions as they are."""
    conditioner, labels = _conditioner(subject)
    cond = conditioner.encode(labels)
    other = subject.build(seed=7)
    page = json.dumps(conditioner.vocabulary().to_json())
    other.set_vocabulary(Vocabulary.from_json(json.loads(page)))
    assert other.spec == conditioner.spec, f"{subject}: {conditioner.spec} becomes {other.spec} in its JSON"
    reload(conditioner, other)
    _assert_same(other.encode(labels), cond, f"{subject}: condition after a checkpoint")
    _assert_same(copy.deepcopy(conditioner).encode(labels), cond, f"{subject}: condition of a deepcopy")
    with tempfile.TemporaryDirectory() as folder:
        conditioner.prepare(Path(folder), torch.device("cpu"))
        for _ in range(2):
            _assert_same(conditioner.encode(labels), cond, f"{subject}: condition after prepare")


def check_conditioner_random(subject: Subject) -> None:
    """Dropout and noise depend only on the image's place in the run."""
    conditioner, labels = _conditioner(subject)
    cond = conditioner.encode(labels).detach()
    if cond.embedding is not None:
        assert_keyed(lambda rows: conditioner.augment(cond[rows]).embedding, f"{subject}: augment")  # type: ignore[arg-type, return-value]


# -------------------------------------------------------------------------------------------------- source


def _with_source(subject: Subject, check: Callable[[Source, str], None]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = subject.source_path(subject.name, Path(folder))
        source = subject.build(path)
        assert len(source) > 0, f"{subject} is empty; let the suite's source_path make a data set for it"
        check(source, path)


def _some(source: Source) -> list[int]:
    """Indices of the first three images and the last."""
    return sorted({*range(min(len(source), 3)), len(source) - 1})


def check_source_samples(subject: Subject) -> None:
    """Images, labels and names have their types and are the same each time."""

    def check(source: Source, path: str) -> None:
        for index in _some(source):
            image, label, name = source.image(index), source.label(index), source.name(index)
            contracts.picture(source, image)
            contracts.label(source, label)
            assert image.tobytes() == source.image(index).tobytes(), f"{subject}: image {index} changes"
            assert label == source.label(index), f"{subject}: label {index} changes"
            for field, value in label.fields.items():
                assert field not in COMMON, f"{subject}: {field!r} is not one of Label.fields"
                assert plain(value) == value, f"{subject}: {field!r} of image {index} is not in stored form"
            assert name, f"{subject}: image {index} has no name"
            assert isinstance(name, str), f"{subject}: the name {name!r} is no text"

    _with_source(subject, check)


def check_source_travels(subject: Subject) -> None:
    """A pickled copy, as worker processes get it, and a second instance equal the source."""

    def check(source: Source, path: str) -> None:
        for what, other in (
            ("pickle", pickle.loads(pickle.dumps(source))),
            ("instance", subject.build(path)),
        ):
            assert len(other) == len(source), f"{subject}: another length in a new {what}"
            assert other.fingerprint() == source.fingerprint(), (
                f"{subject}: another fingerprint in a new {what}"
            )
            for index in _some(source):
                assert other.label(index) == source.label(index), f"{subject}: another label in a new {what}"
                assert other.name(index) == source.name(index), f"{subject}: another name in a new {what}"
                same = other.image(index).tobytes() == source.image(index).tobytes()
                assert same, f"{subject}: another image in a new {what}"

    _with_source(subject, check)


def check_source_vocabulary(subject: Subject) -> None:
    """The vocabulary contains classes, tags and captions of the labels."""

    def check(source: Source, path: str) -> None:
        vocabulary = source.vocabulary()
        assert Vocabulary.from_json(vocabulary.to_json()) == vocabulary, (
            f"{subject}: the vocabulary is not JSON"
        )
        for index in _some(source):
            label = source.label(index)
            assert label.cls is None or label.cls in vocabulary.classes, (
                f"{subject}: class {label.cls!r} is missing"
            )
            missing = label.tags.keys() - vocabulary.tags.keys()
            assert not missing, f"{subject}: the vocabulary lacks the tags {sorted(missing)}"
            assert vocabulary.captioned or not label.texts, f"{subject}: the vocabulary counts no captions"
            unknown = label.fields.keys() - vocabulary.fields.keys()
            assert not unknown, f"{subject}: the vocabulary lacks the fields {sorted(unknown)}"

    _with_source(subject, check)


def check_source_missing(subject: Subject) -> None:
    """A path that does not exist raises GankitError that names it, unless the source ignores paths."""
    with tempfile.TemporaryDirectory() as folder:
        missing = Path(folder) / "no-such-path"
        assert subject.target.matches(missing) in (True, False), (
            f"{subject}: matches is neither True nor False"
        )
        message = "no-such-path"
        try:
            subject.build(str(missing))
        except GankitError as error:
            message = str(error)
        assert "no-such-path" in message, f"{subject}: the message {message!r} does not name the path"


# ------------------------------------------------------------------------------------------------- weights


def check_weights_ids(subject: Subject) -> None:
    """Each listed id has tensors or a folder; an unknown one gives None."""
    source: WeightSource = subject.build()
    for hub_id in source.ids():
        state, folder = source.state_dict(hub_id), source.folder(hub_id)
        assert state or folder, f"{subject} offers {hub_id!r}, but has neither tensors nor a folder"
        for name, tensor in (state or {}).items():
            assert isinstance(tensor, torch.Tensor), f"{subject}: {name} of {hub_id!r} is no tensor"
        assert folder is None or folder.is_dir(), f"{subject}: the folder of {hub_id!r} does not exist"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for what in (source.state_dict, source.folder):
            assert what("gankit/no-such-weights") is None, f"{subject}: something for an id that nobody has"


def check_conditioner_columns(subject: Subject) -> None:
    """Every number of the embedding has a name of its own."""
    conditioner, _ = _conditioner(subject)
    columns = conditioner.columns()
    assert len(columns) == conditioner.spec.c_dim, (
        f"{subject}: columns() names {len(columns)} numbers, the embedding has {conditioner.spec.c_dim}"
    )
    assert len(set(columns)) == len(columns), f"{subject}: columns() gives a name twice"


CHECKS: dict[str, list[Callable[[Subject], None]]] = {
    "conditioner": [
        check_conditioner_encode,
        check_conditioner_examples,
        check_conditioner_fields,
        check_conditioner_mirror,
        check_conditioner_unknown,
        check_conditioner_state,
        check_conditioner_random,
        check_conditioner_columns,
    ],
    "source": [check_source_samples, check_source_travels, check_source_vocabulary, check_source_missing],
    "weights": [check_weights_ids],
}
