"""R3GAN's networks from the arguments and weights of the official ones."""

from __future__ import annotations

import torch
from golden_utils import Case

from gankit.core.interfaces.conditions import Condition, CondSpec
from gankit.core.interfaces.training import StepContext
from gankit.plugins.discriminators.r3gan import R3GANDiscriminator
from gankit.plugins.generators.r3gan import R3GAN

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


def step_context(G, D, real, c, features):
    cond = Condition(c)
    return StepContext(
        "D", G, D, real, cond, cond, lambda x: x, lambda n: torch.randn(n, G.z_dim), 0, features
    )
