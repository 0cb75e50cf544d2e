"""R3GAN's networks and its loss with R1 and R2: official weights, outputs, gradients; published parameter counts."""

from __future__ import annotations

import math

import pytest
import torch
from golden_utils import Case, load_golden

from gankit.core.interfaces.conditions import Condition, CondSpec
from gankit.core.interfaces.training import StepContext
from gankit.core.models.warm_start import transfer
from gankit.errors import GankitError
from gankit.plugins.discriminators.r3gan import R3GANDiscriminator
from gankit.plugins.generators.r3gan import R3GAN
from gankit.plugins.losses.relativistic import Relativistic
from gankit.plugins.regularizers.r1 import R1
from gankit.plugins.regularizers.r2 import R2

TINY = {"widths": [16, 16, 8], "group_width": 8}


def official(kwargs, state):
    """A network built from the arguments of the official one, with its weights."""
    generator = "NoiseDimension" in kwargs
    order = slice(None) if generator else slice(None, None, -1)
    widths, groups = kwargs["WidthPerStage"], kwargs["CardinalityPerStage"]
    (group_width,) = {kwargs["ExpansionFactor"] * w // g for w, g in zip(widths, groups)}
    options = {
        "widths": widths[order],
        "blocks": kwargs["BlocksPerStage"][order],
        "expansion": kwargs["ExpansionFactor"],
        "group_width": group_width,
        "embed_dim": kwargs.get("ConditionEmbeddingDimension"),
    }
    if generator:
        options["z_dim"] = kwargs["NoiseDimension"]
    state = {name: tensor for name, tensor in state.items() if name.startswith("Model.")}
    side = kwargs["img_resolution"]
    network = (R3GAN if generator else R3GANDiscriminator)(
        (3, side, side), CondSpec(kwargs["c_dim"]), **options
    )
    assert {k: v.shape for k, v in network.state_dict().items()} == {k: v.shape for k, v in state.items()}
    network.load_state_dict(state)
    return network


def check_gradients(case: Case, network: torch.nn.Module, prefix: str) -> None:
    parameters = dict(network.named_parameters())
    checked = [name for name in case.outputs if name.startswith(prefix)]
    assert {name.removeprefix(prefix) for name in checked} == set(parameters)
    for name in checked:
        case.check(name, parameters[name.removeprefix(prefix)].grad)


@pytest.mark.parametrize("name", ["net_r3gan_g_cond", "net_r3gan_g_uncond"])
def test_generator_equals_reference(name):
    golden = load_golden(name)
    G = official(golden.meta["init"]["kwargs"], golden.state())
    (case,) = golden.cases
    z = case.inputs["z"].requires_grad_()
    img = G(z, case.inputs.get("c"))
    case.check("img", img)
    img.backward(case.inputs["dimg"])
    case.check("dz", z.grad)
    check_gradients(case, G, "dparam.")


@pytest.mark.parametrize("name", ["net_r3gan_d_cond", "net_r3gan_d_uncond"])
def test_discriminator_equals_reference(name):
    golden = load_golden(name)
    D = official(golden.meta["init"]["kwargs"], golden.state())
    (case,) = golden.cases
    img = case.inputs["img"].requires_grad_()
    (logits,) = D(img, case.inputs.get("c"))
    case.check("logits", logits[:, 0])
    logits.backward(case.inputs["dlogits"][:, None])
    case.check("dimg", img.grad)
    checked = [key for key in case.outputs if key.startswith("dparam.")]
    for key in checked:
        case.check(key, D.get_parameter(key.removeprefix("dparam.")).grad)


@pytest.mark.parametrize("name", ["loss_r3gan_cond", "loss_r3gan_uncond"])
def test_step_equals_reference(name):
    """Relativistic loss with both penalties: values of each image and the gradients of all parameters."""
    golden = load_golden(name)
    G = official(golden.meta["init"]["G"], golden.state("G/"))
    D = official(golden.meta["init"]["D"], golden.state("D/"))
    for case in golden.cases:
        z, real, c = case.inputs["z"], case.inputs["real"], case.inputs.get("c")
        loss = Relativistic()
        if case.name == "D":
            gamma = case.kwargs["Gamma"]
            fake = G(z, c).detach()
            step = step_context(G, D, real, c, features={"fake": fake})
            logits_real, logits_fake = D(real, c), D(fake, c)
            adversarial = loss.d_loss(logits_real, logits_fake)
            r1, r2 = R1(gamma=gamma).penalty(step), R2(gamma=gamma).penalty(step)
            case.check("r1", r1 * 2 / gamma)
            case.check("r2", r2 * 2 / gamma)
            (adversarial + r1 + r2).mean().backward()
            check_gradients(case, D, "grad.")
        else:
            logits_real, logits_fake = D(real, c), D(G(z, c), c)
            adversarial = loss.g_loss(logits_fake, logits_real)
            adversarial.mean().backward()
            check_gradients(case, G, "grad.")
        case.check("adversarial_loss", adversarial)


def step_context(G, D, real, c, features):
    cond = Condition(c)
    return StepContext(
        "D", G, D, real, cond, cond, lambda x: x, lambda n: torch.randn(n, G.z_dim), 0, features
    )


class Quadratic(torch.nn.Module):
    """The closed-form critic of the reference."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.a, self.q = (torch.nn.Parameter(case.inputs[name].clone()) for name in "aq")
        self.b = case.inputs["b"]

    def forward(self, x, cond=None):
        return [(self.b + (self.a * x + 0.5 * self.q * x * x).sum((1, 2, 3)))[:, None]]


@pytest.mark.parametrize("case", load_golden("loss_r3gan_scores").cases, ids=lambda case: case.name)
def test_penalties_of_a_known_critic(case):
    D, gamma = Quadratic(case), case.kwargs["Gamma"]
    real, fake = case.inputs["real"], case.inputs["fake"]
    step = step_context(None, D, real, None, {"fake": fake})
    r1, r2 = R1(gamma=gamma).penalty(step), R2(gamma=gamma).penalty(step)
    case.check("r1", r1 * 2 / gamma)
    case.check("r2", r2 * 2 / gamma)
    total = (Relativistic().d_loss(D(real), D(fake)) + r1 + r2).mean()
    case.check("total", total.reshape(case.outputs["total"].shape))
    total.backward()
    case.check("grad_a", D.a.grad)
    case.check("grad_q", D.q.grad)


def test_lazy_r2_draws_fakes_of_its_own():
    G, D = (
        R3GAN((3, 16, 16), CondSpec(), z_dim=8, **TINY),
        R3GANDiscriminator((3, 16, 16), CondSpec(), **TINY),
    )
    torch.manual_seed(1)
    lazy = R2(gamma=2).penalty(step_context(G, D, torch.zeros(3, 3, 16, 16), None, {}))
    torch.manual_seed(1)
    fake = G(torch.randn(3, 8)).detach()
    given = R2(gamma=2).penalty(step_context(G, D, torch.zeros(3, 3, 16, 16), None, {"fake": fake}))
    torch.testing.assert_close(lazy, given)
    assert lazy.min() > 0


@pytest.mark.parametrize(
    ("side", "classes", "wide", "millions"),
    [  # the paper's table 6
        (32, 10, False, (20.78, 21.28)),
        (64, 0, False, (22.43, 22.38)),
        (256, 0, False, (23.06, 23.01)),
        (32, 1000, True, (82.91, 86.55)),
        (64, 1000, True, (103.57, 107.21)),
    ],
)
def test_parameter_counts(side, classes, wide, millions):
    options = {"widths": [1536] * 5, "group_width": 32} if wide else {}
    for network, count in zip((R3GAN, R3GANDiscriminator), millions):
        with torch.device("meta"):
            made = network((3, side, side), CondSpec(classes), **options)
        assert sum(p.numel() for p in made.parameters()) / 1e6 == pytest.approx(count, abs=0.006)


def test_initial_weights():
    """Blocks begin as the identity; their first convolutions are scaled by the number of blocks."""
    G = R3GAN((3, 32, 32), CondSpec(), widths=[256, 256, 256, 256], group_width=32)
    block = G.Model.MainLayers[1].Layers[1]
    x = torch.randn(2, 256, 8, 8)
    assert torch.equal(block(x), x)
    gain = math.sqrt(2 / 1.04) * 8**-0.25
    assert gain / math.sqrt(2 / 1.04) == pytest.approx(0.5946, abs=1e-4)
    assert block.LinearLayer1.Layer.weight.std().item() == pytest.approx(gain / 16, rel=0.01)
    assert block.LinearLayer2.Layer.weight.std().item() == pytest.approx(gain / math.sqrt(32 * 9), rel=0.01)


def test_mixed_precision_reaches_the_fine_stages_only():
    G = R3GAN((3, 16, 16), CondSpec(3), z_dim=8, bf16_stages=1, **TINY)
    D = R3GANDiscriminator((3, 16, 16), CondSpec(3), bf16_stages=1, **TINY)
    seen = {}
    for name, network in (("G", G), ("D", D)):
        for i, layers in enumerate(network.Model.MainLayers):
            layers.Layers[1].register_forward_hook(
                lambda _, __, y, key=(name, i): seen.__setitem__(key, y.dtype)
            )
    with torch.autocast("cpu", torch.bfloat16):
        images = G(torch.randn(2, 8), torch.eye(3)[:2])
        (logits,) = D(images, torch.eye(3)[:2])
    assert images.dtype == logits.dtype == torch.float32
    assert [seen["G", i] for i in range(3)] == [torch.float32, torch.float32, torch.bfloat16]
    assert [seen["D", i] for i in range(3)] == [torch.bfloat16, torch.float32, torch.float32]


def test_truncation_scales_z():
    G = R3GAN((3, 16, 16), CondSpec(), z_dim=8, **TINY)
    z = torch.randn(2, 8)
    assert torch.equal(G.mapping(z, truncation_psi=0.5)[:, 0], 0.5 * z)
    assert torch.equal(G.mapping(z, truncation_psi=0.5, truncation_cutoff=0)[:, 0], z)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": [16, 16]}, "widths has 2 entries; images of 16x16 pixels need 3"),
        ({"widths": [16, 16, 0]}, "each must be at least 1"),
        ({"widths": [16, 16, 16], "blocks": [1, 2]}, "blocks has 2 entries"),
        ({"widths": [16, 16, 12], "group_width": 16}, "group_width = 16 does not divide"),
    ],
)
@pytest.mark.parametrize("network", [R3GAN, R3GANDiscriminator])
def test_wrong_options(network, options, message):
    with pytest.raises(GankitError, match=message):
        network((3, 16, 16), CondSpec(), **options)


def test_an_unconditional_generator_becomes_conditional():
    """--init: at first it draws what the source draws, and the condition gets a gradient."""
    old = R3GAN((3, 16, 16), CondSpec(), z_dim=8, **TINY)
    new = R3GAN((3, 16, 16), CondSpec(3), z_dim=8, **TINY)
    transfer(new, old.state_dict())
    z = torch.randn(3, 8)
    images = new(z, torch.eye(3))
    torch.testing.assert_close(images, old(z))
    images.square().sum().backward()
    assert new.Model.MainLayers[0].Layers[0].LinearLayer.weight.grad[:, 8:].abs().max() > 0
