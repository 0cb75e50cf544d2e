"""Conformance checks of importers: declared classes, networks of others, incomplete networks."""

from __future__ import annotations

from collections.abc import Callable

from gankit.errors import GankitError
from gankit.interop.torch_files import ForeignNetwork, Module, Storage, TensorRecord
from gankit.testing.common import Subject


def check_importer_classes(subject: Subject) -> None:
    """`classes` names the classes that it knows, for messages."""
    classes = subject.target.classes
    assert isinstance(classes, tuple), f"{subject}: classes is {classes!r}, not a tuple"
    assert classes, f"{subject}: classes is empty"
    assert all(isinstance(name, str) and name for name in classes), f"{subject}: classes is {classes!r}"


def check_importer_declines(subject: Subject) -> None:
    """`recognises` is False for networks of others, also for those of the same class name."""
    tensor = TensorRecord(Storage("float32", bytes(16)), 0, (4,), (1,))
    strangers = [
        ForeignNetwork("file.pt", "G_ema", {}, {"no.such.tensor": tensor}),
        *(
            ForeignNetwork(
                "file.pkl", "G_ema", {"": Module(name, "somewhere", {})}, {"no.such.tensor": tensor}
            )
            for name in (*subject.target.classes, "NoSuchClass")
        ),
    ]
    for network in strangers:
        verdict = subject.target().recognises(network)
        assert verdict is False, f"{subject}: recognises({network.described}) is {verdict!r}, not False"


def check_importer_refuses(subject: Subject) -> None:
    """A network without its tensors raises GankitError, and no other error."""
    for role in ("G_ema", "D"):
        for name in subject.target.classes:
            network = ForeignNetwork("file.pkl", role, {"": Module(name, "somewhere", {})})
            try:
                subject.target().convert(network)
            except GankitError:
                continue
            raise AssertionError(f"{subject}: {network.described} without a single tensor was converted")


CHECKS: dict[str, list[Callable[[Subject], None]]] = {
    "importer": [check_importer_classes, check_importer_declines, check_importer_refuses],
}
