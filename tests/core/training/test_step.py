"""A training step: micro-batches, top-k, the average of weights, bad numbers."""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import TINY, assert_same, log_of, tensors_of, train

import gankit
from gankit.core.checkpoints import folders
from gankit.core.config import recipe as recipes
from gankit.core.interfaces.labels import Label, Vocabulary
from gankit.core.interfaces.networks import Pretrained
from gankit.core.interfaces.training import StepContext
from gankit.core.runtime import distributed
from gankit.core.training.assembly import rehearse
from gankit.core.training.phases import Losses
from gankit.core.training.step import Stepper
from gankit.plugins.generators.stylegan2 import StyleGAN2
from gankit.plugins.losses.non_saturating import NonSaturating

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


COMBINED = {"name": "combined", "parts": {"class": {}, "tags": {"dropout": 0.2, "noise": 0.05}}}


# --------------------------------------------------------------------------------------------- micro-batches


NO_BATCH_STATISTICS = {
    "discriminator__mbstd_channels": 0,
    "regularizers": {"r1": {"gamma": 1.0, "interval": 2}},
    "augmentation": {"name": "ada", "pipeline": "bgc", "p": 0.6, "target": None},
    "conditioner": COMBINED,
    # Adam's first steps are the signs of gradients, and that of a gradient of zero is rounding; this eps makes the
    # steps a smooth function of the gradients.
    "train__eps": 0.1,
    "train__lr_g": 0.1,
    "train__lr_d": 0.1,
}


@pytest.mark.parametrize("micro", [2, 3])
def test_micro_batches_change_nothing(micro: int, images: Path, tmp_path: Path) -> None:
    options = {**NO_BATCH_STATISTICS, "train__images": 24}
    # A value before a leaky ReLU may be so near zero that rounding decides about its slope; a mistake spares no seed.
    for seed in (0, 1, 2):
        whole = train(tmp_path / f"whole{seed}", images, **options, train__seed=seed)
        split = train(
            tmp_path / f"split{seed}", images, **options, train__seed=seed, train__micro_batch=micro
        )
        with contextlib.suppress(AssertionError) if seed < 2 else contextlib.nullcontext():
            assert_same(whole, split, 1e-5)
            break
    start = train(tmp_path / "start", images, **{**options, "train__images": 8}, train__seed=seed)
    with pytest.raises(AssertionError):
        assert_same(whole, start, 1e-3)  # there was something to compare


def test_micro_batches_leave_running_state_as_one_batch_would(images: Path, tmp_path: Path) -> None:
    """Spectral norm iterates once a pass and mean w moves once a pass, however many micro-batches there are."""
    base = {**NO_BATCH_STATISTICS, "train__images": 16}
    whole = train(tmp_path / "whole", images, **base)
    split = train(tmp_path / "split", images, **base, train__micro_batch=1)
    name = "training/generator.safetensors:mapping.w_avg"
    a, b = tensors_of(whole)[name], tensors_of(split)[name]
    assert a.abs().max() > 1e-4
    assert torch.allclose(a, b, atol=1e-6)


# ------------------------------------------------------------------------------------------------ bad numbers


def test_bad_gradients_are_skipped_counted_and_stop_the_run(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step with bad gradients leaves weights and running state alone; too many of them end the run."""
    bad_steps = {2, 3}
    original = Losses.adversarial

    def sometimes_bad(self: Losses, step: StepContext) -> torch.Tensor:
        loss = original(self, step)
        return loss * math.nan if step.side == "D" and step.nimg // 8 in bad_steps else loss

    monkeypatch.setattr(Losses, "adversarial", sometimes_bad)
    options = {"train__images": 48, "train__checkpoint_every": 8, "train__keep": 2, "train__max_bad_steps": 3}
    last = train(tmp_path / "some", images, **options)
    assert [line["bad_steps"] for line in log_of(tmp_path / "some")] == [0, 0, 1, 2, 2, 2]
    assert log_of(tmp_path / "some")[2]["loss/D"] is None
    assert all(tensor.isfinite().all() for tensor in tensors_of(last).values())

    bad_steps |= {4}
    with pytest.raises(gankit.GankitError, match=r"3 steps in a row .*000000016.* lower train.lr_g") as error:
        train(tmp_path / "many", images, **options)
    assert "\n" not in str(error.value)
    kept = folders.checkpoints(tmp_path / "many")
    assert [p.name for p in kept] == ["000000008", "000000016"]  # bad ones have not pushed out the good ones
    assert gankit.load(tmp_path / "many")(seeds=0)


def test_bad_path_lengths_do_not_poison_their_mean(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gankit.plugins.regularizers.path_length import PathLength

    original = PathLength.penalty

    def bad_once(self: PathLength, step: Any) -> torch.Tensor:
        value = original(self, step)
        if step.nimg == 8:
            self.pl_mean.fill_(math.nan)
            return value * math.nan
        return value

    monkeypatch.setattr(PathLength, "penalty", bad_once)
    last = train(tmp_path, images, train__images=24, regularizers={"path-length": {"interval": 2}})
    monkeypatch.undo()
    mean = tensors_of(last)["training/regularizer.path-length.safetensors:pl_mean"]
    assert mean.isfinite()
    assert mean > 0


def test_an_absurd_learning_rate_ends_in_one_sentence(images: Path, tmp_path: Path) -> None:
    with pytest.raises(gankit.GankitError, match="not finite"):
        train(
            tmp_path, images, train__images=2000, train__lr_g=1e30, train__lr_d=1e30, train__max_bad_steps=2
        )


# ------------------------------------------------------------------------------------------------------ state


def stepper_of(text: dict[str, Any]) -> Stepper:
    changes = {**TINY, "conditioner": text, "train.posthoc_ema": [0.1], "train.lr_conditioner": 0.01}
    changes |= {"schedules.regularizers.r1.gamma": {"end": 0.0, "over": 100}}
    recipe = recipes.read("stylegan2-class", {**changes, "augmentation": {"name": "ada"}})
    device = torch.device("cpu")
    parts = rehearse(recipe, Vocabulary(captioned=8, total=8), device)
    return Stepper(parts, recipe, device, distributed.World(), bf16=False)


def test_the_state_of_a_stepper_restores_it() -> None:
    text = {"name": "clip-tower", "embed_dim": 8, "width": 16, "heads": 2, "layers": 1, "trainable": True}
    images, labels = torch.rand(8, 3, 16, 16) * 2 - 1, [Label(texts=("a square",))] * 8
    first, second = stepper_of(text), stepper_of(text)
    for _ in range(3):
        first.run(images, labels)
    state = copy.deepcopy(first.state_dict())
    assert (state["nimg"], state["step"]) == (24, 3)
    assert 0 < state["schedules"]["regularizers.r1.gamma"] < first.schedules.targets[0].own
    second.load_state_dict(state)
    for stepper in (first, second):
        stepper.run(images, labels)
    mine, theirs = (recipes.flatten(stepper.state_dict()) for stepper in (first, second))
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        same = torch.equal(value, theirs[name]) if isinstance(value, torch.Tensor) else value == theirs[name]
        assert same, name


def test_a_frozen_network_inside_g_stays_frozen_shared_and_out_of_checkpoints(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = StyleGAN2.__init__

    @functools.wraps(build)
    def with_stem(self: Any, *args: Any, **options: Any) -> None:
        build(self, *args, **options)
        self.stem = Pretrained("stem", torch.nn.Linear(4, 4))
        self.stem.requires_grad_(True)  # its author forgot to freeze it

    monkeypatch.setattr(StyleGAN2, "__init__", with_stem)
    seen: list[Stepper] = []
    original = Stepper.run

    def spy(self: Stepper, *args: Any, **kwargs: Any) -> bool:
        seen.append(self)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Stepper, "run", spy)
    last = train(tmp_path, images, train__images=8)
    G: Any = seen[0].parts.G
    assert not any(p.requires_grad for p in G.stem.parameters())
    assert not G.stem.training
    assert G.stem is seen[0].G_ema.stem  # type: ignore[attr-defined]
    assert not any("stem" in name for name in tensors_of(last))
    state = json.loads((last / "training" / "state.json").read_text())
    assert state["frozen"]["generator.stem"] == G.stem.identity()
    assert gankit.load(tmp_path)(seeds=0)
    monkeypatch.setattr(torch.nn, "Linear", functools.partial(torch.nn.Linear, bias=False))
    with pytest.raises(gankit.GankitError, match="other weights of the pretrained network 'stem'"):
        gankit.load(tmp_path)
