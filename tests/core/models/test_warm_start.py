"""--init: weights of one network for another of another size, number of classes or kind of condition."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pickle_utils import PICKLES
from runs import Result, tiny_set
from safetensors.torch import load_file
from torch import Tensor
from warm_starts import start

from gankit.core.config import options
from gankit.core.cuda import downsample2d, setup_filter, upsample2d
from gankit.core.interfaces.conditions import Condition, CondSpec
from gankit.core.interfaces.labels import Label, Vocabulary
from gankit.core.interfaces.networks import Generator
from gankit.core.models import build, stored_state
from gankit.core.models.warm_start import condition_axes, match, transfer
from gankit.core.nn.stylegan_layers import Conv2dLayer
from gankit.interop.import_foreign import convert
from gankit.plugins.generators.stylegan_t import StyleGANT


@pytest.mark.parametrize("name", ["stylegan2", "stylegan-t"])
def test_a_larger_generator_begins_with_what_the_smaller_drew(name: str) -> None:
    spec = {"name": name, "z_dim": 8, "channel_base": 128}
    small, large = (options.build("generator", spec, (3, side, side), CondSpec()).eval() for side in (16, 32))
    transfer(large, stored_state.stored_state(small))
    z = torch.randn(2, 8)
    with torch.no_grad():
        old = upsample2d(small(z, noise_mode="const"), setup_filter([1, 3, 3, 1]))
        full = large(z, noise_mode="const")
        for share in (0.0, 0.3):
            assert large.fade_in(share)
            assert torch.allclose(large(z, noise_mode="const"), old.lerp(full, share), atol=1e-5)
        assert large.fade_in(1)
        assert torch.equal(large(z, noise_mode="const"), full)
    other = {**spec, "architecture": "orig" if name == "stylegan2" else "single"}
    assert not options.build("generator", other, (3, 16, 16), CondSpec()).fade_in(0.5)


def test_a_larger_discriminator_begins_with_what_the_smaller_saw() -> None:
    spec = {"name": "stylegan2", "channel_base": 128, "architecture": "skip"}
    small, large = (
        options.build("discriminator", spec, (3, side, side), CondSpec()).eval() for side in (16, 32)
    )
    transfer(large, stored_state.stored_state(small))
    images = torch.randn(4, 3, 32, 32)
    assert large.fade_in(0)
    old = small(downsample2d(images, setup_filter([1, 3, 3, 1])))[0]
    assert torch.allclose(large(images)[0], old, atol=1e-5)
    assert large.fade_in(1)
    assert not torch.allclose(large(images)[0], old, atol=1e-2)
    resnet = options.build("discriminator", {**spec, "architecture": "resnet"}, (3, 16, 16), CondSpec())
    assert not resnet.fade_in(0)


ANIMALS = ["ant", "bee", "cat", "dog", "eel"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    convert(PICKLES / "sg2_uncond.pkl", root / "sg2_uncond")
    convert(PICKLES / "sg2_cond.pkl", root / "sg2_cond", classes=ANIMALS)
    convert(PICKLES / "sgt.pkl", root / "sgt")
    return {path.name: path for path in root.iterdir()}


def draw(G: Generator, cond: Condition | Tensor | None, count: int = 3) -> Tensor:
    z = torch.randn(count, G.z_dim, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        return G(z, cond, noise_mode="const")


def assert_same(actual: Tensor, expected: Tensor) -> None:
    assert expected.std() > 0.05
    assert (actual - expected).abs().max() <= 2e-5 * expected.abs().max()


def one(conditioner: Any, **label: Any) -> Condition:
    return conditioner.encode([Label(**label)] * 3)


def test_unconditional_snapshot_becomes_a_tag_model(folders: dict[str, Path]) -> None:
    """At first it draws what the snapshot draws, whatever the tags; and the tags get a gradient."""
    vocabulary = Vocabulary(tags={"red": 5, "blue": 3})
    old, G, D, conditioner, report = start(folders["sg2_uncond"], vocabulary, conditioner="tags")
    expected = draw(old.generator, None)
    for tags in ({}, {"red": 1.0}, {"red": 0.5, "blue": 1.0}):
        assert_same(draw(G, one(conditioner, tags=tags)), expected)
    draw_again = G(torch.randn(3, G.z_dim), one(conditioner, tags={"red": 1.0}))
    draw_again.square().mean().backward()
    assert G.mapping.fc0.weight.grad[:, G.z_dim :].abs().max() > 0
    assert "0 of 2 columns of the condition found by name; new: red, blue" in report
    assert "fresh   mapping.embed.weight [24, 2]" in report
    assert "resized mapping.fc0.weight [24, 16] -> [24, 40]" in report
    assert "generator from the model: 76 tensors copied, 1 resized, 2 fresh, 0 left out" in report
    saved = load_file(folders["sg2_uncond"] / "training" / "discriminator.safetensors")
    assert torch.equal(D.b16.conv0.weight, saved["b16.conv0.weight"])
    assert "discriminator from the model" in report


@pytest.mark.parametrize(
    "order", [ANIMALS[::-1], ["fox", "dog", "ant"], ["cat", *ANIMALS[3:], "Bee", "ant", "gnu"]]
)
def test_classes_are_matched_by_name(folders: dict[str, Path], order: list[str]) -> None:
    vocabulary = Vocabulary(classes=dict.fromkeys(order, 1))
    old, G, D, conditioner, report = start(folders["sg2_cond"], vocabulary)
    old_D = build.build_discriminator(old.recipe, old.conditioner)
    state = load_file(folders["sg2_cond"] / "training" / "discriminator.safetensors")
    old_D.load_state_dict(state)
    images = torch.randn(3, 3, 16, 16)
    for name in order:
        if name.lower() not in ANIMALS:
            assert f"new: {name}" in report
            assert not torch.equal(draw(G, one(conditioner, cls=name)), draw(G, one(conditioner)))
            continue
        new, known = one(conditioner, cls=name), one(old.conditioner, cls=name.lower())
        embedded, expected = G.mapping.embed(new.embedding), old.generator.mapping.embed(known.embedding)
        assert torch.allclose(embedded, expected, atol=1e-5)
        assert_same(draw(G, new), draw(old.generator, known))
        assert torch.allclose(D(images, new)[0], old_D(images, known)[0], atol=1e-5)
    gone = [name for name in ANIMALS if name not in map(str.lower, order)]
    assert ("left out: " + ", ".join(gone) in report) == bool(gone)


def test_classes_become_tags_and_parts(folders: dict[str, Path]) -> None:
    """A class and a tag of one name are one column, alone or among the parts of a combined condition."""
    vocabulary = Vocabulary(tags={"dog": 3, "fast": 2, "bee": 1}, classes={"x": 1})
    old, G, _, conditioner, report = start(folders["sg2_cond"], vocabulary, conditioner="tags")
    assert "2 of 3 columns of the condition found by name; new: fast; left out: ant, cat, eel" in report
    assert_same(
        draw(G, one(conditioner, tags={"dog": 1.0})), draw(old.generator, one(old.conditioner, cls="dog"))
    )
    parts = {"name": "combined", "parts": {"class": {}, "tags": {}}}
    vocabulary = Vocabulary(classes={"zoo": 1, "eel": 1}, tags={"bee": 1})
    _, G, _, conditioner, report = start(folders["sg2_cond"], vocabulary, conditioner=parts)
    assert "2 of 5 columns" in report  # zoo, eel, bee, and a flag for each part
    for new, name in ((0, None), (1, 4), (2, 1), (3, None), (4, None)):
        if name is not None:
            column = old.generator.mapping.embed.weight[:, name] * old.generator.mapping.embed.weight_gain
            assert torch.allclose(
                G.mapping.embed.weight[:, new] * G.mapping.embed.weight_gain, column, atol=1e-6
            )


def test_conditional_snapshot_becomes_unconditional(folders: dict[str, Path]) -> None:
    """z keeps its weights, the class is left out."""
    old, G, _, _, report = start(folders["sg2_cond"], conditioner="none")
    fc0, old_fc0 = G.mapping.fc0, old.generator.mapping.fc0
    assert torch.allclose(
        fc0.weight * fc0.weight_gain, old_fc0.weight[:, :16] * old_fc0.weight_gain, atol=1e-7
    )
    assert "left out mapping.embed.weight [16, 5]" in report


def test_resolutions(folders: dict[str, Path]) -> None:
    """Blocks of the same resolution are the same; those that only one network has are fresh or left out."""
    for side in (64, 16):
        old, G, D, _, report = start(folders["sg2_uncond"], data__size=side)
        mine, theirs = G.state_dict(), old.generator.state_dict()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine.keys() & theirs.keys())
        assert ("fresh   synthesis.b64.conv0.weight" in report) == (side == 64)
        assert ("left out synthesis.b32.conv0.weight" in report) == (side == 16)
        assert D.image_shape == (3, side, side)
    old, G, _, _, report = start(folders["sg2_uncond"], data__size=[64, 32])
    assert "resized synthesis.b4.const [12, 4, 4] -> [12, 8, 4]" in report


def test_wider_network_draws_the_same(folders: dict[str, Path]) -> None:
    """More feature maps: new ones are fed, but their outputs have weight zero at first."""
    changes = {"generator__channel_max": 16, "generator__channel_base": 512, "generator__w_dim": 24}
    old, G, _, _, report = start(folders["sg2_uncond"], **changes)
    assert "resized synthesis.b4.conv1.weight [12, 12, 3, 3] -> [16, 16, 3, 3]" in report
    assert_same(draw(G, None), draw(old.generator, None))


def test_text_model_becomes_a_class_model(folders: dict[str, Path]) -> None:
    """StyleGAN-T's styles see z and the condition side by side: the new condition has weight zero at first."""
    vocabulary = Vocabulary(classes=dict.fromkeys(ANIMALS, 1))
    old, G, _, conditioner, report = start(
        folders["sgt"], vocabulary, conditioner="class", discriminator="stylegan2"
    )
    assert "0 of 5 columns" in report
    assert_same(draw(G, one(conditioner, cls="cat")), draw(old.generator, torch.zeros(3, 16)))


def test_conditioner_with_weights_comes_along(folders: dict[str, Path]) -> None:
    old, G, _, conditioner, report = start(
        folders["sgt"], Vocabulary(captioned=1, total=1), discriminator="stylegan2"
    )
    assert "16 of 16 columns of the condition found by name" in report
    state = old.conditioner.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in conditioner.state_dict().items())
    c = torch.randn(3, 16)
    assert torch.equal(draw(G, c), draw(old.generator, c))


def test_condition_axes_are_found() -> None:
    tiny: dict[str, Any] = {"z_dim": 4, "channel_base": 64, "channel_max": 8, "num_res_blocks": 1}
    axes = condition_axes(lambda cond: StyleGANT((3, 16, 16), cond, **tiny), CondSpec(c_dim=7))
    assert axes["synthesis.b8.convs1.0.affine.proj.weight"] == 1
    assert set(axes.values()) == {1}
    assert not any(name.startswith("mapping") for name in axes)
    axes = condition_axes(lambda cond: StyleGANT((3, 16, 16), cond, cond_dim=5, **tiny), CondSpec(c_dim=7))
    assert axes == {"mapping.embed.weight": 1}
    assert condition_axes(lambda cond: StyleGANT((3, 16, 16), cond, **tiny), CondSpec()) == {}


def test_matching() -> None:
    old = [("cls", "Red Hair"), ("cls", "b"), ("text x", "0")]
    new = [("tags", "red_hair"), ("text y", "0"), ("cls", "b"), ("text x", "0"), ("tags", "b")]
    found = match(old, new)
    assert found.source == (0, None, 1, 2, 1)
    assert (found.missing, found.unused) == (("0",), ())
    assert match(old, old).identical
    assert not match(old, old[:2]).identical
    assert not match(old[:2], old[1::-1]).identical


def test_training_starts_from_a_snapshot(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gankit_cli: Callable[..., Result]
) -> None:
    """`--init FILE.pkl` on data with tags, and the run goes on from there."""
    monkeypatch.setenv("GANKIT_CACHE", str(tmp_path / "cache"))
    options = tiny_set(conditioner="tags", train__images=8, data__size=32)
    networks = {"z_dim": 16, "w_dim": 24, "channel_base": 256, "channel_max": 12, "mapping_layers": 3}
    for key, value in networks.items():
        options += ["--set", f"generator.{key}={value}"]
    command = ("train", "stylegan2", "--data", images, "--out", tmp_path / "run")
    result = gankit_cli(*command, "--init", PICKLES / "sg2_uncond.pkl", *options)
    assert (result.code, result.err) == (0, "")
    assert "0 of 3 columns of the condition found by name; new: " in result.out
    assert "76 tensors copied, 1 resized, 2 fresh" in result.out
    assert "discriminator from" in result.out


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 5)])
def test_a_larger_kernel_does_what_the_smaller_one_did(before: int, after: int) -> None:
    small, large = (Conv2dLayer(2, 3, kernel, activation="linear") for kernel in (before, after))
    transfer(large, small.state_dict())
    x = torch.randn(1, 2, 7, 7)
    assert_same(large(x), small(x))


def test_a_smaller_kernel_takes_the_middle() -> None:
    small, large = Conv2dLayer(2, 3, 1, activation="linear"), Conv2dLayer(2, 3, 3, activation="linear")
    transfer(small, large.state_dict())
    assert_same(small.weight / small.weight.norm(), (w := large.weight[:, :, 1:2, 1:2]) / w.norm())
