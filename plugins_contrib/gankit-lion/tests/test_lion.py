import torch
from torch import nn

import gankit.testing
from gankit_lion.lion import Lion


class TestConformance(gankit.testing.ConformanceSuite):
    package = "gankit-lion"


def test_two_steps_by_hand():
    parameter = nn.Parameter(torch.tensor([1.0, -2.0]))
    group = {"params": [("p", parameter)], "rate": "lr_g", "lr": 0.1, "betas": (0.9, 0.5), "eps": 1e-8}
    optimizer = Lion(weight_decay=0.5).make([group])
    parameter.grad = torch.tensor([4.0, -1.0])
    optimizer.step()  # decay by 1 - 0.1 * 0.5, then 0.1 against the sign; the average is half the gradient
    torch.testing.assert_close(parameter.data, torch.tensor([0.85, -1.8]))
    parameter.grad = torch.tensor([-1.0, 0.0])
    optimizer.step()  # 0.9 * [2, -0.5] + 0.1 * [-1, 0] keeps the signs
    torch.testing.assert_close(parameter.data, torch.tensor([0.7075, -1.61]))
    torch.testing.assert_close(optimizer.state[parameter]["average"], torch.tensor([0.5, -0.25]))
