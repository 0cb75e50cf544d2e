"""The conformance suite notices plugins that break their contract, and has nothing to say against sound ones."""

from __future__ import annotations

from collections.abc import Iterator

import broken_plugins as plugins
import pytest

from gankit.core.config.registry import Plugin, registry
from gankit.testing import Subject, checks_of

SOUND = {
    "generator": plugins.G,
    "discriminator": plugins.D,
    "feature": plugins.Feature,
    "loss": plugins.Loss,
    "augmentation": plugins.Augment,
    "conditioner": plugins.Conditions,
    "source": plugins.Squares,
}
MORE = [
    ("conditioner", plugins.Angle),  # with a field of its own
    ("loss", plugins.Squares01),
    ("loss", plugins.SquaresPearson),
]
BAD = [
    ("generator", plugins.WrongWidth, "generator_shapes", r"returned ws \[4, 2, 6\], not \[4, 1, 6\]"),
    ("generator", plugins.RowMissing, "generator_shapes", r"images \[4, 3, 15, 16\], not \[4, 3, 16, 16\]"),
    ("generator", plugins.Doubles, "generator_shapes", "images of torch.float64, not of torch.float32"),
    ("generator", plugins.NoCondition, "generator_shapes", "a method mapping that takes"),
    ("generator", plugins.Bytes, "generator_range", "must be in or around"),
    (
        "generator",
        plugins.LenOfBatch,
        "generator_graph",
        r"`len\(ws\)` is a constant in a graph, write `ws.shape\[0\]`",
    ),
    (
        "generator",
        plugins.Branches,
        "generator_graph",
        r"torch.compile failed at .*broken_plugins.py:\d+ `if images.mean",
    ),
    ("generator", plugins.Untrained, "generator_gradients", "no gradient reaches the parameter forgotten"),
    ("generator", plugins.TorchNoise, "generator_random", "draws random numbers from torch"),
    ("generator", plugins.NotHalf, "generator_half", r"\(follows_ws\) raises RuntimeError"),
    ("generator", plugins.ReturnsHalf, "generator_half", "bfloat16 are torch.bfloat16, not float32"),
    ("generator", plugins.NotConst, "generator_deterministic", "'const' is not repeatable"),
    ("generator", plugins.CrossTalk, "generator_deterministic", "alone and in a batch"),
    ("generator", plugins.Forgetful, "generator_state", "before and after state dict"),
    ("generator", plugins.StuckFade, "generator_fading", r"fade_in\(1\) does not give the network back"),
    ("generator", plugins.Deaf, "generator_condition", "does not change the images"),
    ("generator", plugins.NoHelp, "options", "'z_dim' is not described"),
    ("generator", plugins.ThirdPositional, "options", r"must take \(image_shape, cond\) by position"),
    ("generator", plugins.NoBase, "base_class", "must derive from Generator"),
    ("discriminator", plugins.NoList, "discriminator_logits", "not a list of logits"),
    ("discriminator", plugins.HalfBatch, "discriminator_logits", r"returned logits \[2, 1\]"),
    ("discriminator", plugins.InPlaceScore, "discriminator_condition", "scoring the same features again"),
    ("discriminator", plugins.SecretStatistics, "discriminator_random", "names no batch_statistics"),
    ("discriminator", plugins.Blind, "discriminator_gradients", "no gradient reaches the images"),
    ("feature", plugins.Trained, "feature_frozen", "trained"),
    ("feature", plugins.WrongTap, "feature_taps", "its tap says"),
    ("loss", plugins.WrongSign, "loss_direction", "do not please G"),
    ("loss", plugins.SquaresSwapped, "loss_direction", "larger real logits do not please D"),
    ("loss", plugins.SquaresG, "loss_direction", "do not please G"),
    ("loss", plugins.Scalar, "loss_shapes", r"returned \[\] from d_loss, not one loss an image"),
    ("loss", plugins.OneNumber, "loss_shapes", r"returned \[\] from g_loss, not one loss an image"),
    ("loss", plugins.NoReason, "incompatibility", "incompatibility returns 'conditioner none'"),
    ("loss", plugins.FirstOnly, "loss_shapes", "ignores the logits of a network"),
    ("regularizer", plugins.WrongSide, "regularizer_penalty", "no gradient reaches G"),
    ("regularizer", plugins.HiddenState, "regularizer_state", "one that was restored"),
    ("regularizer", plugins.SideX, "regularizer_penalty", "side = 'X'"),
    ("regularizer", plugins.OnePenalty, "regularizer_penalty", r"returned \[\] from penalty"),
    ("guidance", plugins.EveryPixel, "guidance_loss", r"returned \[4, 3072\] from loss"),
    ("augmentation", plugins.Crops, "augmentation_shapes", r"not \[4, 1, 16, 16\]"),
    ("augmentation", plugins.Brightens, "augmentation_shapes", "must be in or around"),
    ("augmentation", plugins.TorchRand, "augmentation_random", "draws random numbers from torch"),
    ("augmentation", plugins.Stepped, "augmentation_gradients", "second derivative"),
    ("augmentation", plugins.InPlace, "augmentation_shapes", "writes into the images"),
    ("conditioner", plugins.Wide, "conditioner_encode", r"embedding \[4, 6\] from encode, not \[4, 3\]"),
    ("conditioner", plugins.Lenient, "conditioner_unknown", "no GankitError was raised"),
    ("conditioner", plugins.NotSaved, "conditioner_state", "in its JSON"),
    ("conditioner", plugins.Nameless, "conditioner_columns", "gives a name twice"),
    ("conditioner", plugins.Curious, "conditioner_fields", "does not accept 'tags', but reads it"),
    ("conditioner", plugins.Promises, "conditioner_fields", "accepts 'tags', but other tags"),
    (
        "conditioner",
        plugins.NoExamples,
        "conditioner_examples",
        r"accepts \['angle'\], but has examples of \[\]",
    ),
    ("conditioner", plugins.OneExample, "conditioner_examples", "fewer than two values of 'angle'"),
    (
        "conditioner",
        plugins.TakenName,
        "conditioner_examples",
        r"accepts \['seeds'\], of which pipe\(name=...\) gives no field",
    ),
    ("conditioner", plugins.NoCheck, "conditioner_unknown", "check of .* no GankitError was raised"),
    ("conditioner", plugins.HalfMirror, "conditioner_mirror", "mirrored twice"),
    (
        "conditioner",
        plugins.TextNeeds,
        "incompatibility",
        "needs_labels must be a tuple of names of fields, not 'cls'",
    ),
    (
        "conditioner",
        plugins.NoSuchKind,
        "incompatibility",
        "conflicts names 'discriminators/stylegan2', not 'kind/name'",
    ),
    ("source", plugins.Arrays, "source_samples", "returned a ndarray from image"),
    ("source", plugins.Names, "source_samples", "returned a str from label"),
    ("engine", plugins.Every2nd, "engine_images", r"returned images \[1, 3, 8, 8\], not \[2, 3, 8, 8\]"),
    ("engine", plugins.Backwards, "engine_images", "they differ by"),
    ("source", plugins.Fickle, "source_samples", "label 0 changes"),
    ("source", plugins.BySeed, "source_travels", "another fingerprint"),
    ("source", plugins.Incomplete, "source_vocabulary", "class 'b' is missing"),
]


@pytest.fixture(autouse=True)
def put_back() -> Iterator[None]:
    before = dict(registry().plugins)
    yield
    registry().plugins.clear()
    registry().plugins.update(before)


def subject(kind: str, target: type) -> Subject:
    registry().plugins[kind, "mine"] = Plugin(kind, "mine", f"broken_plugins:{target.__name__}", "fake", "1")
    return Subject(kind, "mine", {}, shapes=((3, 16, 16), (1, 16, 8)))


@pytest.mark.parametrize(("kind", "target"), [*SOUND.items(), *MORE])
def test_sound_ones_pass(kind: str, target: type) -> None:
    for check in checks_of(kind):
        check(subject(kind, target))


@pytest.mark.parametrize(("kind", "target", "name", "message"), BAD, ids=[b[1].__name__ for b in BAD])
def test_bad_ones_are_found(kind: str, target: type, name: str, message: str) -> None:
    (check,) = [check for check in checks_of(kind) if check.__name__ == f"check_{name}"]
    with pytest.raises(AssertionError, match=message):
        check(subject(kind, target))


def test_unpicklable_source_is_found() -> None:
    (check,) = [check for check in checks_of("source") if check.__name__ == "check_source_travels"]
    with pytest.raises((AttributeError, TypeError), match="pickle"):
        check(subject("source", plugins.Unpicklable))
