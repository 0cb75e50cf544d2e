"""R3GAN's discriminator: official weights, outputs, gradients."""

from __future__ import annotations

import pytest
from golden_utils import load_golden
from r3gan_networks import official


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
