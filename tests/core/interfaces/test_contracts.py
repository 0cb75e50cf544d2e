"""Plugins that break their contract are named where they meet the core: when they are built, and in the first step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import broken_plugins as plugins
import pytest
from runs import assert_same, train, write_images

import gankit
from gankit.core.config import options
from gankit.core.data.loader import open_source
from gankit.core.interfaces import contracts
from gankit.core.interfaces.conditions import CondSpec
from gankit.core.interfaces.contracts import ContractError, with_vocabulary
from gankit.core.training.step import Stepper
from gankit.plugins.sources.folder import FolderSource

SHAPE, WHO = (3, 16, 16), "of package 'my-package 0.1'"
OF_A_NETWORK = (SHAPE, CondSpec())

BUILT: list[tuple[str, type, tuple[Any, ...], str]] = [
    ("generator", plugins.NoBase, OF_A_NETWORK, "is a NoBase, which does not derive from gankit's Generator"),
    ("generator", plugins.NoSynthesis, OF_A_NETWORK, r"has no method synthesis\(ws, cond=None"),
    (
        "generator",
        plugins.NoCondition,
        OF_A_NETWORK,
        "has a method mapping that takes .*2 arguments by position",
    ),
    (
        "generator",
        plugins.NoWidth,
        OF_A_NETWORK,
        "has z_dim = None, which must be a whole number of at least 1",
    ),
    ("generator", plugins.OtherShape, OF_A_NETWORK, r"has image_shape = \(3, 99, 99\), not \(3, 16, 16\)"),
    ("generator", plugins.Loss, OF_A_NETWORK, "is a Loss, which does not derive from gankit's Generator"),
    ("loss", plugins.Loss, SHAPE, "cannot be built: its constructor takes .* 3 arguments by position"),
    ("discriminator", plugins.NoScore, OF_A_NETWORK, "lacks score, which Discriminator demands"),
    ("loss", plugins.FakeOnly, (), "has a method d_loss that takes"),
    ("generator", plugins.G, (), "cannot be built: its constructor takes .* 0 arguments by position"),
    ("regularizer", plugins.SideX, (), "has side = 'X', which must be 'D', 'G' or 'both'"),
    ("regularizer", plugins.NoInterval, (), "has interval = 0, which must be a whole number of at least 1"),
]


class Opaque(plugins.Angle):
    def examples(self) -> Any:
        return {"angle": [object()]}


class OneValue(plugins.Angle):
    def examples(self) -> Any:
        return {"angle": 30.0}


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (plugins.TakenName, r"accepts \['seeds'\], of which pipe\(name=...\) gives no field"),
        (Opaque, "has examples of 'angle' that must be text, a number"),
        (OneValue, "returned {'angle': 30.0} from examples, not lists of values by field"),
    ],
)
def test_fields_of_conditioners_are_checked(target: type[plugins.Angle], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        with_vocabulary(target())


@pytest.mark.parametrize(
    ("kind", "target", "positional", "message"), BUILT, ids=[b[1].__name__ for b in BUILT]
)
def test_what_is_wrong_with_a_class_is_told_when_it_is_built(
    kind: str, target: type, positional: tuple[Any, ...], message: str
) -> None:
    with (
        plugins.registered(kind, target.__name__),
        pytest.raises(ContractError, match=f"^{kind} 'mine' {WHO} {message}"),
    ):
        options.build(kind, "mine", *positional)


def test_a_factory_function_and_errors_of_its_own_pass() -> None:
    def factory(image_shape: Any, cond: Any) -> plugins.G:
        return plugins.G(image_shape, cond)

    def broken(image_shape: Any, cond: Any) -> plugins.G:
        raise AttributeError("of the plugin itself")

    plugins.factory, plugins.broken = factory, broken  # type: ignore[attr-defined]
    with plugins.registered("generator", "factory"):
        assert isinstance(options.build("generator", "mine", *OF_A_NETWORK), plugins.G)
    with (
        plugins.registered("generator", "broken"),
        pytest.raises(AttributeError, match="of the plugin itself"),
    ):
        options.build("generator", "mine", *OF_A_NETWORK)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), count=8)


MINE, BARE = {"name": "mine"}, {"regularizers": {}, "augmentation": None}
TRAINED: list[tuple[str, type, dict[str, Any], str]] = [
    ("generator", plugins.RowMissing, {}, r"returned images \[8, 3, 15, 16\], not \[8, 3, 16, 16\]; mend"),
    ("generator", plugins.Bytes, {}, r"returned images with a mean \|x\| of \d+, which must be in or around"),
    ("generator", plugins.WrongWidth, {}, r"returned ws \[8, 2, 6\], not \[8, 1, 6\]"),
    ("discriminator", plugins.HalfBatch, {}, r"returned logits \[4, 1\], not \[B, N\] for a batch of 8"),
    ("discriminator", plugins.NoList, {}, "returned .* from score, not a list of logits"),
    ("loss", plugins.Scalar, {}, r"returned \[\] from d_loss, not one loss an image, \[8\]"),
    ("loss", plugins.OneNumber, {}, r"returned \[\] from g_loss, not one loss an image"),
    ("regularizer", plugins.OnePenalty, {}, r"returned \[\] from penalty, not one number an image"),
    ("guidance", plugins.EveryPixel, {}, r"returned \[8, 768\] from loss, not one loss an image"),
    ("augmentation", plugins.Crops, {}, r"returned images \[8, 3, 14, 16\], not \[8, 3, 16, 16\]"),
    ("augmentation", plugins.Brightens, {}, r"returned images with a mean \|x\| of"),
    ("conditioner", plugins.Wide, {}, r"returned embedding \[8, 4\] from encode, not \[8, 2\] as its spec"),
    ("conditioner", plugins.NoSpec, {}, "has spec = None, which must be a CondSpec"),
]


@pytest.mark.parametrize(("kind", "target", "more", "message"), TRAINED, ids=[t[1].__name__ for t in TRAINED])
def test_what_a_plugin_returns_is_checked_in_the_first_step(
    tmp_path: Path, images: Path, kind: str, target: type, more: dict[str, Any], message: str
) -> None:
    many = {"regularizer": "regularizers", "guidance": "guidance"}
    section = {many[kind]: {"mine": {}}} if kind in many else {kind: MINE}
    with (
        plugins.registered(kind, target.__name__),
        pytest.raises(ContractError, match=f"^{kind} 'mine' {WHO} {message}"),
    ):
        learn(tmp_path / "run", images, **{**BARE, **section, **more})
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))


def learn(run: Path, images: Path, **sections: Any) -> Path:
    """Train sound plugins of `broken_plugins`, but for those in `sections`."""
    with plugins.registered("generator", "G", "g"), plugins.registered("discriminator", "D", "d"):
        recipe = {
            "gankit": 1,
            "name": "broken",
            "data": {"size": [16, 16]},
            "generator": "g",
            "discriminator": "d",
        }
        page = run.with_suffix(".yaml")
        import yaml

        train_ = {"images": 8, "batch": 8, "workers": 0, "tick": 8, "precision": "fp32"}
        page.write_text(yaml.safe_dump({**recipe, "trackers": {}, "train": train_, **sections}))
        return gankit.train(str(page), run, data=str(images), quiet=True)


def test_taps_of_a_feature_network(tmp_path: Path, images: Path) -> None:
    with (
        plugins.registered("discriminator", "Lies"),
        plugins.registered("feature", "WrongTap", "wrong-tap"),
        pytest.raises(
            ContractError, match=r"^feature 'wrong-tap' .* map \[8, 4, 4, 4\], its tap says \[8, 4, 2, 2\]"
        ),
    ):
        learn(tmp_path / "run", images, **BARE, discriminator=MINE)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (plugins.Arrays, "returned a ndarray from image, not an image of PIL"),
        (plugins.Names, "returned a str from label, not a Label"),
        (plugins.Empty, "has 0 images"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_sources(target: type, message: str) -> None:
    with (
        plugins.registered("source", target.__name__),
        pytest.raises(ContractError, match=f"^source 'mine' {WHO} {message}"),
    ):
        open_source("mine:", {})


def test_later_steps_are_not_checked(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[int] = []
    logits = contracts.logits
    monkeypatch.setattr(contracts, "logits", lambda D, *args: (checked.append(1), logits(D, *args))[1])
    learn(tmp_path / "run", images, **BARE, train={"images": 24, "batch": 8, "workers": 0, "tick": 8})
    assert len(checked) == 3  # real and generated images for D, generated ones for G


def test_the_checks_change_no_number(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = train(tmp_path / "checked", images)
    original = Stepper.__init__

    def unchecked(self: Stepper, *args: Any) -> None:
        original(self, *args)
        self.losses.checking = False

    monkeypatch.setattr(Stepper, "__init__", unchecked)
    assert_same(checked, train(tmp_path / "plain", images))


@pytest.mark.parametrize("target", ["StaticLoss", "FrozenLoss", "DelegatingLoss"])
def test_plugins_in_other_forms_train(target: str, tmp_path: Path, images: Path) -> None:
    """Static methods, frozen dataclasses and methods that are found by delegation keep the contract as well."""
    with plugins.registered("loss", target):
        learn(tmp_path / "run", images, **{**BARE, "loss": "mine"})


def test_a_fingerprint_is_a_text_and_asked_for_once(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may read many files."""
    asked: list[FolderSource] = []
    original = FolderSource.fingerprint
    monkeypatch.setattr(FolderSource, "fingerprint", lambda self: (asked.append(self), original(self))[1])
    train(tmp_path / "sound", images)
    assert len(asked) == 1
    monkeypatch.setattr(FolderSource, "fingerprint", lambda self: None)
    with pytest.raises(
        ContractError, match=r"^source 'folder' .* returned None from fingerprint, not a text"
    ):
        train(tmp_path / "none", images)
