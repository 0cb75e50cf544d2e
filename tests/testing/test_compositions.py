"""The suite that combines a package's plugins with the installed ones: which rows it makes, and what it notices."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from fake_packages import registering, site_folder, write_package

from gankit.core.config.registry import registry
from gankit.errors import GankitError
from gankit.testing import CompositionSuite

PARTS = """
import torch
from gankit.interfaces import AdversarialLoss, Augmentation, GankitError

class Loss(AdversarialLoss):
    '''Of Wasserstein GANs.'''
    factor = 1.0

    def d_loss(self, real, fake):
        return self.factor * torch.stack([f.mean(1) - r.mean(1) for r, f in zip(real, fake)]).sum(0)

    def g_loss(self, fake, real=None):
        return self.factor * torch.stack([-f.mean(1) for f in fake]).sum(0)

class Endless(Loss):
    factor = float("inf")

class Still(Loss):
    factor = 0.0

class Picky(Loss):
    @classmethod
    def incompatibility(cls, options, composition):
        return composition.conditioner, "it reads captions"

class Mute(Loss):
    @classmethod
    def incompatibility(cls, options, composition):
        return "something", "it does not say what"

class Late(Loss):
    def __init__(self):
        raise GankitError("loss and generator cannot work together: told when the networks are there")

class Mirror(Augmentation):
    '''Turns images around.'''

    def __init__(self, image_shape):
        super().__init__()

    def forward(self, images):
        return images.flip(3)
"""


class Suite(CompositionSuite):
    package = "Add_Ons"


@pytest.fixture(scope="module", autouse=True)
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    names = ("Loss", "Endless", "Still", "Picky", "Mute", "Late")
    lines = [f"'loss', 'my-{name.lower()}', 'add_ons.parts:{name}'" for name in names]
    lines.append("'augmentation', 'my-mirror', 'add_ons.parts:Mirror'")
    with site_folder(tmp_path_factory.mktemp("site")) as folder:
        files = {"add_ons/__init__.py": registering(*lines), "add_ons/parts.py": PARTS}
        write_package(folder, "add-ons", files)
        yield


def test_rows_have_every_pair_with_a_plugin_of_the_package() -> None:
    suite = Suite()
    rows = suite.rows()
    mine = {(p.kind, p.name) for p in registry().plugins.values() if p.package == "add-ons"}
    assert len(mine) == 7
    for (i, one), (j, other) in itertools.combinations(enumerate(suite.kinds), 2):
        found = {(row[i], row[j]) for row in rows}
        for a, b in itertools.product(suite.names(one), suite.names(other)):
            assert (a, b) in found or not {(one, a), (other, b)} & mine
    assert all(any(pair in mine for pair in zip(suite.kinds, row)) for row in rows)
    assert len(rows) < 80  # of 400,000 in the full product


def test_a_package_without_parts_of_a_recipe() -> None:
    class Cpu(CompositionSuite):
        package = "gankit-nowhere"

    with pytest.raises(GankitError, match="'gankit-nowhere' has no plugin of the kinds generator, "):
        Cpu().pytest_generate_tests(type("Metafunc", (), {"fixturenames": ["row"]}))


def row(loss: str, augmentation: str = "none") -> tuple[str, ...]:
    named = {"generator": "fastgan-lite", "discriminator": "stylegan2", "optimizer": "adam"}
    named |= {"loss": loss, "augmentation": augmentation}
    assert named.keys() <= set(Suite.kinds)
    return tuple(named.get(kind, "none") for kind in Suite.kinds)


def test_what_trains() -> None:
    Suite().test_row(row("my-loss", "my-mirror"))
    Suite().test_row(row("my-picky"))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("my-endless", "gradients are not finite"),
        ("my-still", "did not move"),
        ("my-mute", "both parts are to be named"),
    ],
)
def test_what_is_wrong_is_noticed(loss: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        Suite().test_row(row(loss))


def test_a_refusal_that_comes_late() -> None:
    with pytest.raises(GankitError, match="told when the networks are there"):
        Suite().test_row(row("my-late"))


def test_expected_refusals() -> None:
    class Knowing(Suite):
        def must_be_refused(self, row: tuple[str, ...]) -> bool:
            return "my-picky" not in row

    with pytest.raises(AssertionError, match="cannot work together"):
        Knowing().test_row(row("my-picky"))
    with pytest.raises(AssertionError, match="None"):
        Knowing().test_row(row("my-loss"))
