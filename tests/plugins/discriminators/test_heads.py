"""Heads on feature maps: the reference's numbers, depths and parameters of the paper."""

from __future__ import annotations

import pytest
import torch
from golden_utils import load_golden
from hypothesis import given, settings
from hypothesis import strategies as st
from projected_networks import renamed

from gankit.plugins.discriminators.heads import Head, head_plan


@pytest.mark.parametrize("name", ["default", "sep", "patch", "oddsize", "cond"])
def test_single_head_equals_reference(name):
    golden = load_golden("net_pg_single_disc")
    case = next(case for case in golden.cases if case.name == name)
    blocks, _ = head_plan(case.kwargs["start_sz"], 256)
    widths = [case.kwargs.get("ndf", width) for width in blocks]
    names = {
        "c_dim": "c_dim",
        "cmap_dim": "cmap_dim",
        "embedding_dim": "embed_dim",
        "separable": "separable",
        "patch": "patch",
    }
    options = {names[k]: v for k, v in case.kwargs.items() if k in names}
    head = Head(case.kwargs["nc"], widths, 4, **options)
    head.load_state_dict(renamed(golden.state(f"state_{case.name}/"), ""))
    x = case.inputs["x"].clone().requires_grad_(True)
    c = case.inputs.get("c")
    y = head.eval().score(head.features(x), c)
    case.check("logits_eval", y)
    case.check("dx", torch.autograd.grad(y.square().sum(), x)[0])
    case.check("logits_train", head.train().score(head.features(x), c))
    for key in case.outputs:
        if key.startswith("after."):
            case.check(key, head.state_dict()[key.removeprefix("after.")])


@pytest.mark.parametrize(("side", "logits"), [(224, 64), (256, 100), (512, 676)])
def test_paper_depths_at_paper_sizes(side, logits):
    """Numbers of logits of section 4, from the sizes alone."""
    total = 0
    for nominal in (128, 64, 32, 16):
        actual = side // (256 // nominal)
        widths, kernel = head_plan(nominal, actual)
        assert kernel == 4
        total += ((actual >> len(widths)) - 3) ** 2
    assert total == logits


def test_paper_parameters():
    heads = [Head(c, *head_plan(n, 7 * n // 8)) for n, c in ((128, 64), (64, 64), (32, 128), (16, 256))]
    counts = [sum(p.numel() for p in head.parameters()) for head in heads]
    assert counts == [2_829_120, 2_763_392, 2_631_936, 2_106_880]


@settings(deadline=None, max_examples=60)
@given(nominal=st.sampled_from([8, 16, 32, 64, 128]), actual=st.integers(1, 300))
def test_head_plan_always_fits(nominal, actual):
    widths, kernel = head_plan(nominal, actual)
    left = actual >> len(widths)
    assert 1 <= kernel <= min(4, left)
    assert kernel == 4 or len(widths) <= 1 or left < 4
    assert len(widths) <= len(head_plan(nominal, 256)[0])
