"""The non-saturating loss against the reference vectors of StyleGAN2, through its networks too."""

from __future__ import annotations

import pytest
import torch
from golden_utils import load_golden
from step_contexts import Phases

from gankit.core.interfaces.conditions import Condition
from gankit.plugins.losses.non_saturating import NonSaturating


@pytest.mark.parametrize("file", ["loss_sg2", "loss_sg2_cond"])
def test_non_saturating_matches_the_original(file: str) -> None:
    cases = {case.name: case for case in load_golden(file).cases}
    d, g = cases["Dmain"], cases["Gmain"]
    d_loss = NonSaturating().d_loss([d.outputs["Loss.scores.real"]], [d.outputs["Loss.scores.fake"]])
    d.check("Loss.D.loss", d_loss[:, None])
    g.check("Loss.G.loss", NonSaturating().g_loss([g.outputs["Loss.scores.fake"]])[:, None])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=["loss_sg2", "loss_sg2_cond"])
def phases(request: pytest.FixtureRequest) -> Phases:
    return Phases(request.param)


def test_g_main_matches_the_original(phases: Phases) -> None:
    case = phases.cases["Gmain"]
    logits = phases.D(phases.fake(case), Condition(case.inputs["c_gen"]))
    case.check("Loss.scores.fake", logits[0])
    loss = NonSaturating().g_loss(logits)
    case.check("Loss.G.loss", loss[:, None])
    phases.check_gradients(case, phases.G, loss)


def test_d_main_matches_the_original(phases: Phases) -> None:
    case = phases.cases["Dmain"]
    real = phases.D(case.inputs["real_img"], Condition(case.inputs["c_real"]))
    fake = phases.D(phases.fake(case).detach(), Condition(case.inputs["c_gen"]))
    case.check("Loss.scores.real", real[0])
    loss = NonSaturating().d_loss(real, fake)
    case.check("Loss.D.loss", loss[:, None])
    phases.check_gradients(case, phases.D, loss)
