"""Schedules of options, the balance of G and D, frozen parts, top-k, and what D's view of images lacks at first."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from runs import TINY, assert_same, tensors_of, tiny_set
from torch import nn

import gankit
from gankit.core.checkpoints import folders
from gankit.core.config import options
from gankit.core.config import recipe as recipes
from gankit.core.config.schedules import Schedule
from gankit.core.cuda import downsample2d, setup_filter, upsample2d
from gankit.core.interfaces.conditions import CondSpec
from gankit.core.models import stored_state
from gankit.core.models.warm_start import transfer
from gankit.core.training import fade_in
from gankit.core.training.freezing import freeze
from gankit.core.training.scheduling import Schedules
from gankit.core.training.step import Stepper
from gankit.errors import GankitError
from gankit.plugins.losses.non_saturating import NonSaturating

ALL_PARTS = {
    "schedules": {
        "train": {
            "lr_g": {"end": 1e-4, "over": 32, "shape": "cosine"},
            "lr_d": {"warmup": 16},
            "betas": {"start": [0, 0.9], "end": [0, 0.99], "over": 32, "shape": "cosine"},
            "ema_kimg": {"start": 0, "end": 0.05, "over": 32},
            "top_k": {"end": 0.5, "over": 24},
        },
        "regularizers": {"r1": {"gamma": {"end": 0.1, "over": 24, "shape": "exponential"}}},
        "augmentation": {"p": {"end": 0.6, "over": 32, "shape": "cosine"}},
    },
    "augmentation": {"name": "ada", "target": None},
    "regularizers": {"r1": {"gamma": 1.0, "interval": 1}, "path-length": {"interval": 2}},
    "train.ema_rampup": None,
    "train.order": "dg",
    "train.d_steps": 2,
    "train.ttur": 2.0,
    "train.blur_sigma": 2,
    "train.blur_kimg": 0.03,
    "train.fade_kimg": 0.02,
    "train.freeze": ["discriminator.b16.fromrgb", "generator.mapping", "!generator.mapping.fc1"],
}


def train(out: Path, images: Path, recipe: str = "stylegan2", **overrides: Any) -> Path:
    changes = {**TINY, "train.images": 8, **overrides}
    return gankit.train(recipe, out, data=str(images), overrides=changes, quiet=True)


def log_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


# ------------------------------------------------------------------------------------------------ schedules


def test_cosine_is_that_of_r3gan() -> None:
    schedule = Schedule(end=5e-5, over=20_000_000, shape="cosine")
    for n in (0, 1_000_000, 13_000_000, 20_000_000, 50_000_000):
        expected = 5e-5 + (2e-4 - 5e-5) * (1 + math.cos(math.pi * min(n / 2e7, 1))) / 2
        assert schedule.value(2e-4, n) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("options", "images", "expected"),
    [
        ({"end": 1, "over": 100}, 25, 2.5),
        ({"end": 1, "over": 100}, 1000, 1),
        ({"start": 4, "end": 1, "over": 100, "shape": "exponential"}, 50, 2),
        ({"end": 1, "over": 100, "shape": "step"}, 99, 3),
        ({"end": 1, "over": 100, "shape": "step"}, 100, 1),
        ({"warmup": 200}, 50, 0.75),
        ({"warmup": 200, "end": 1, "over": 100}, 100, 0.5),
        ({"warmup": "1k"}, 5000, 3),
        ({}, 5000, 3),
    ],
)
def test_shapes(options: dict[str, Any], images: int, expected: float) -> None:
    assert Schedule(**options).value(3.0, images) == pytest.approx(expected)


def test_pairs_move_together() -> None:
    assert Schedule(end=(0.5, 0.99), over=10).value((0.0, 0.9), 5) == pytest.approx((0.25, 0.945))


@pytest.mark.parametrize(
    ("schedules", "message"),
    [
        ({"trian": {}}, r"page: unknown section of schedules 'trian'; did you mean 'train'"),
        (
            {"train": {"lr": {}}},
            r"unknown option to be scheduled in train: 'lr'; did you mean 'lr_g' or 'lr_d'",
        ),
        ({"train": {"batch": {"end": 2}}}, r"unknown option to be scheduled in train: 'batch'"),
        ({"train": {"lr_g": {"and": 2}}}, r"schedules.train.lr_g: unknown key 'and'; did you mean 'end'"),
        ({"train": {"lr_g": {"end": 1e-4}}}, r"schedules.train.lr_g needs over"),
        ({"train": {"lr_g": {"end": -1, "over": 5}}}, r"schedules.train.lr_g: -1 is out of range"),
        ({"train": {"lr_g": {"end": [1, 2], "over": 5}}}, r"lr_g must move one number, not \(1.0, 2.0\)"),
        ({"train": {"lr_g": {"end": 0, "over": 5, "shape": "exponential"}}}, r"exponential cannot"),
        ({"train": {"lr_g": {"shape": "sine"}}}, r"schedules.train.lr_g.shape = 'sine'"),
        ({"train": {"lr_g": 3}}, r"schedules.train.lr_g"),
        ({"train": {"betas": {"end": 0.9, "over": 5}}}, r"betas must move two numbers, not 0.9"),
        ({"train": {"betas_g": {"end": [0, 0.9], "over": 5}}}, r"betas_g needs a start"),
        ({"train": {"betas": {"end": [0, 1], "over": 5}}}, r"betas: 1 is out of range"),
        ({"train": {"top_k": {"end": 2, "over": 5}}}, r"top_k: 2 is out of range"),
        ({"train": []}, r"schedules.train must be a mapping"),
        ([1], r"schedules"),
        ({"regularizers": {"r2": {"gamma": {}}}}, r"unknown entry of regularizers 'r2'; valid: r1"),
        (
            {"regularizers": {"r1": {"gama": {}}}},
            r"unknown option .* regularizers.r1: 'gama'; did you mean 'gamma'",
        ),
        ({"regularizers": {"r1": {"interval": {}}}}, r"unknown option .* 'interval'"),
        ({"augmentation": {"p": {"end": 1, "over": 5}}}, r"set augmentation.target to null"),
    ],
)
def test_mistakes_in_schedules_are_named(schedules: Any, message: str) -> None:
    page = {"regularizers": {"r1": {}}, "augmentation": "ada", "schedules": schedules}
    with pytest.raises(GankitError, match=message) as error:
        recipes.parse(page, "page")
    assert "\n" not in str(error.value)


def test_images_are_counted_from_the_stage_or_the_run() -> None:
    page = {"end": 0, "over": 100}
    schedules = {"train": {"lr_g": page, "lr_d": {**page, "since": "run"}}}
    recipe = recipes.parse({"train": {"lr_g": 1, "lr_d": 1}, "schedules": schedules}, "page")
    train = recipe.train.model_copy()
    values = Schedules(recipe, train, object()).apply(80, 60)
    assert values == {"train.lr_g": pytest.approx(0.8), "train.lr_d": pytest.approx(0.2)}
    assert (train.lr_g, recipe.train.lr_g) == (values["train.lr_g"], 1)


def test_an_option_that_a_plugin_does_not_keep_cannot_move(images: Path, tmp_path: Path) -> None:
    schedules = {
        "augmentation": {"p": {"end": 1, "over": 8}},
        "regularizers": {"r1": {"gamma": {"warmup": 8}}},
    }
    options = {"augmentation": {"name": "ada", "target": None}, "schedules": schedules}
    recipe = recipes.read("stylegan2", {**TINY, **options})

    class Parts:
        augmentation = nn.Identity()
        regularizers = {"r1": nn.Identity()}

    with pytest.raises(GankitError, match=r"Identity does not keep '(p|gamma)' as an attribute"):
        Schedules(recipe, recipe.train, Parts())


def test_everything_together_follows_its_schedule_and_continues_to_the_bit(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []
    original = Stepper._phase

    def spy(self: Stepper, side: str, name: str, *args: Any) -> None:
        group = (self.opt_g if side == "G" else self.opt_d).param_groups[0]
        r1, ada = self.parts.regularizers["r1"], self.parts.augmentation
        seen.append(
            {
                "nimg": self.nimg,
                "phase": side if name == "main" else name,
                "lr": group["lr"],
                "betas": group["betas"],
                "gamma": r1.gamma,
                "p": float(ada.p),  # type: ignore[union-attr, arg-type]
            }
        )
        original(self, side, name, *args)

    monkeypatch.setattr(Stepper, "_phase", spy)
    options = {**ALL_PARTS, "train.checkpoint_every": 8, "train.keep": 9}
    whole = train(tmp_path / "whole", images, **options, **{"train.images": 48})
    # D in every step, G in every second one, its lazy regularizer in every second one of these
    assert [(s["nimg"], s["phase"]) for s in seen] == [
        *((0, "D"), (8, "D"), (8, "G"), (8, "path-length"), (16, "D"), (24, "D"), (24, "G")),
        *((32, "D"), (40, "D"), (40, "G"), (40, "path-length")),
    ]
    for s in seen:
        wave = (1 + math.cos(math.pi * min(s["nimg"] / 32, 1))) / 2
        c = 2 / 3 if s["phase"] in ("G", "path-length") else 1  # the correction for the lazy regularizer
        lr = (1e-4 + (2.5e-3 - 1e-4) * wave) * c
        if s["phase"] == "D":
            lr = 2 * 2.5e-3 * min(s["nimg"] / 16, 1)
        assert s["lr"] == pytest.approx(lr)
        assert s["betas"] == pytest.approx((0, (0.99 - 0.09 * wave) ** c))
        assert s["gamma"] == pytest.approx(0.1 ** min(s["nimg"] / 24, 1))
        assert s["p"] == pytest.approx(0.6 * (1 - wave))
    monkeypatch.undo()
    assert log_of(tmp_path / "whole")[1]["schedule/train.top_k"] == pytest.approx(1 - 0.5 / 3, rel=1e-4)

    for length in (16, 24, 48):
        parts = train(tmp_path / "parts", images, **options, **{"train.images": length})
    assert_same(whole, parts)


# ------------------------------------------------------------------------------------- balance, top-k, average


def test_top_k_keeps_the_losses_of_the_best(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        NonSaturating, "g_loss", lambda self, fake, real=None: fake[0][:, 0] * 0 + torch.arange(8.0).flip(0)
    )
    options = {"regularizers": {}, "train.images": 8}
    for share, mean in ((1.0, 3.5), (0.5, 1.5), (0.01, 0.0)):
        run = tmp_path / str(share)
        train(run, images, **options, **{"train.top_k": share})
        assert log_of(run)[0]["loss/G"] == pytest.approx(mean)


def test_the_average_is_the_raw_network_after_the_first_step_of_a_ramp(images: Path, tmp_path: Path) -> None:
    """As in StyleGAN2-ADA, where the ramp counts the images before the step."""
    tensors = tensors_of(train(tmp_path, images, **{"train.ema_kimg": 1.0, "train.ema_rampup": 1e6}))
    for name, tensor in tensors.items():
        if name.startswith("generator.safetensors:"):
            assert torch.equal(tensor, tensors[f"training/{name}"]), name


# ------------------------------------------------------------------------------------------------ frozen parts


def test_frozen_parts_stay_and_others_move(images: Path, tmp_path: Path) -> None:
    options = {"train.freeze": ALL_PARTS["train.freeze"], "train.checkpoint_every": 8}
    train(tmp_path, images, **options, **{"train.images": 16})
    first, last = (tensors_of(p) for p in folders.checkpoints(tmp_path))
    for name, tensor in last.items():
        if name.startswith("training/optimizer") or not name.endswith((".weight", ".bias")):
            continue
        part = name.partition("/")[2]
        frozen = part.startswith(
            ("discriminator.safetensors:b16.fromrgb", "generator.safetensors:mapping.fc0")
        )
        if name.startswith("training/") and ("fc" not in name or frozen or "fc1" in name):
            assert torch.equal(tensor, first[name]) is frozen, name


def test_patterns() -> None:
    def made() -> dict[str, nn.Module]:
        D = nn.ModuleDict(
            {f"b{r}": nn.ModuleDict({"conv0": nn.Linear(2, 2), "skip": nn.Linear(2, 2)}) for r in (4, 8)}
        )
        return {"discriminator": D, "generator": nn.Linear(2, 2)}

    assert freeze(made(), []) == []
    assert freeze(made(), ["generator"]) == ["generator.weight", "generator.bias"]
    assert freeze(made(), ["discriminator.*.skip"]) == [
        f"discriminator.b{r}.skip.{kind}" for r in (4, 8) for kind in ("weight", "bias")
    ]
    assert freeze(made(), ["*.bias", "!discriminator.b8", "!generator"]) == [
        "discriminator.b4.conv0.bias",
        "discriminator.b4.skip.bias",
    ]
    modules = made()
    freeze(modules, ["discriminator.b8"])
    assert {n for n, p in modules["discriminator"].named_parameters() if not p.requires_grad} == {
        f"b8.{layer}.{kind}" for layer in ("conv0", "skip") for kind in ("weight", "bias")
    }
    with pytest.raises(
        GankitError, match=r"train.freeze: 'discriminator.b16'; did you mean 'discriminator.b"
    ):
        freeze(made(), ["discriminator.b16"])


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (
            ["discriminator.b61"],
            r"unknown part in train.freeze: 'discriminator.b61'; did you mean 'discriminator.b16'",
        ),
        (["discriminator"], r"train.freeze leaves nothing of the discriminator to train"),
        (["generator"], r"train.freeze leaves nothing of the generator to train"),
    ],
)
def test_mistakes_in_freezing_are_named(
    patterns: list[str], message: str, images: Path, tmp_path: Path
) -> None:
    with pytest.raises(GankitError, match=message):
        train(tmp_path, images, **{"train.freeze": patterns})


def test_dry_run_shows_what_is_frozen(images: Path, gankit_cli: Any) -> None:
    command = ("train", "stylegan2", "--data", images, "--dry-run", *tiny_set())
    shown = gankit_cli(
        *command, "--set", "train.freeze=[discriminator.b16.conv0]", "--set", "train.top_k=0.5"
    )
    assert "not trained: 2 tensors, such as discriminator.b16.conv0." in shown.out
    assert "top-k" in shown.out
    wrong = gankit_cli(*command, "--set", "train.freeze=[discriminator.b61]")
    assert (wrong.code, "did you mean" in wrong.message) == (2, True)


# ------------------------------------------------------------------------------------------------- D's input


@pytest.mark.parametrize("sigma", [0.34, 2.0, 10.0])
def test_blur_is_the_convolution_of_the_originals(sigma: float) -> None:
    images = torch.randn(2, 3, 20, 12, dtype=torch.float64)
    radius = math.floor(3 * sigma)
    taps = torch.tensor([2 ** -((i / sigma) ** 2) for i in range(-radius, radius + 1)], dtype=torch.float64)
    kernel = (taps / taps.sum()).expand(3, 1, -1)
    expected = F.conv2d(images, kernel[..., None], groups=3, padding=(radius, 0))
    expected = F.conv2d(expected, kernel[:, :, None], groups=3, padding=(0, radius))
    assert torch.allclose(fade_in.blur(images, sigma), expected, atol=1e-12)


def test_blur_of_ten_pixels_has_the_measured_width() -> None:
    line = torch.zeros(1, 1, 1, 201, dtype=torch.float64)
    line[..., 100] = 1
    out = fade_in.blur(line, 10)[0, 0, 0]
    out = out / out.sum()
    assert int((out > 0).sum()) == 61
    assert ((out * (torch.arange(201) - 100.0).square()).sum().sqrt()).item() == pytest.approx(8.47, abs=0.01)


def test_blur_ends_and_is_computed_in_float32() -> None:
    images = torch.randn(1, 3, 16, 16, dtype=torch.bfloat16)
    assert fade_in.blur(images, 0.33) is images
    with torch.autocast("cpu", torch.bfloat16):
        assert fade_in.blur(images, 2).dtype == torch.float32
    torch.autograd.gradgradcheck(
        lambda x: fade_in.blur(x, 1).pow(3).sum(),
        torch.randn(1, 1, 4, 4, dtype=torch.float64, requires_grad=True),
    )


def test_details_fade_in() -> None:
    images = torch.randn(1, 1, 4, 6)
    coarse = images.unflatten(3, (3, 2)).unflatten(2, (2, 2)).mean((3, 5))
    coarse = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.allclose(fade_in.fade_in(images, 0), coarse, atol=1e-6)
    assert torch.allclose(fade_in.fade_in(images, 0.25), 0.75 * coarse + 0.25 * images, atol=1e-6)
    assert fade_in.fade_in(images, 1.5) is images


def test_d_sees_blurred_images_first(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sigmas, shares = [], []
    blur, fade = fade_in.blur, fade_in.fade_in
    monkeypatch.setattr(fade_in, "blur", lambda x, sigma: (sigmas.append(sigma), blur(x, sigma))[1])
    monkeypatch.setattr(fade_in, "fade_in", lambda x, share: (shares.append(share), fade(x, share))[1])
    options = {"train.blur_sigma": 4.0, "train.blur_kimg": 0.016, "train.fade_kimg": 0.02, "regularizers": {}}
    train(tmp_path, images, **options, **{"train.images": 32, "train.order": "dg", "train.d_steps": 4})
    # real and fake in each D step, fake in the G step of the fourth
    assert sigmas == [4, 4, 2, 2, 0, 0, 0, 0, 0]
    assert shares == pytest.approx([0, 0.4, 0.8, 1])  # of real images: this generator fades its own


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


# ------------------------------------------------------------------------------------------------ spectral norm


def test_spectral_norm_of_equalised_layers() -> None:
    spec = {"name": "stylegan2", "channel_base": 128, "spectral_norm": True}
    D = options.build("discriminator", spec, (3, 16, 16), CondSpec(4)).train()
    images, cond = torch.randn(4, 3, 16, 16), torch.randn(4, 4)
    with torch.no_grad():
        for _ in range(100):
            D(images, cond)
        D.eval()
        for layer in (D.b16.fromrgb, D.b16.conv0, D.b16.skip, D.b8.conv1, D.b4.conv, D.b4.fc, D.b4.out):
            effective = (layer.weight * layer.weight_gain).flatten(1)
            assert torch.linalg.matrix_norm(effective, 2).item() == pytest.approx(1, abs=0.02)
    assert not hasattr(D.mapping.fc0, "parametrizations")
    D.train()
    images.requires_grad_()
    (gradient,) = torch.autograd.grad(D(images, cond)[0].sum(), images, create_graph=True)
    gradient.square().sum().backward()
    assert D.b8.conv0.parametrizations.weight.original.grad.isfinite().all()


def test_spectral_norm_continues_to_the_bit(images: Path, tmp_path: Path) -> None:
    options = {"discriminator.spectral_norm": True, "regularizers": {"r1": {"interval": 2}}}
    whole = train(tmp_path / "whole", images, **options, **{"train.images": 24})
    for length in (16, 24):
        parts = train(tmp_path / "parts", images, **options, **{"train.images": length})
    assert_same(whole, parts)
    assert any(name.endswith("b8.conv0.parametrizations.weight.0.u") for name in tensors_of(whole))
