"""Operators and generators in compiled and exported graphs, which hold composites only."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gankit.core import cuda
from gankit.core.cuda import dispatch
from gankit.core.interfaces.conditions import CondSpec
from gankit.plugins.generators.stylegan2 import StyleGAN2


class Small(nn.Module):
    """Every operator once."""

    def forward(self, x, w, s):
        f = cuda.setup_filter([1, 3, 3, 1])
        x = cuda.modulated_conv2d(
            x, w, s, up=2, padding=1, resample_filter=f, flip_weight=False, act="lrelu", gain=None
        )
        x = cuda.filtered_lrelu(x, f[0], f[0], up=2, down=2, padding=3, clamp=4)
        x = cuda.filtered_lrelu(x, f, f, up=2, down=2, padding=3)
        x = cuda.conv2d_resample(x, w, f, down=2, padding=1)
        x = cuda.downsample2d(cuda.upsample2d(cuda.filter2d(x, f), f), f)
        return cuda.bias_act(x, w[:, 0, 0, 0], act="swish", clamp=3)


def inputs(batch):
    torch.manual_seed(0)
    return torch.randn(batch, 3, 6, 4), torch.randn(3, 3, 3, 3), torch.randn(batch, 3)


@pytest.mark.parametrize("request_", ["auto", "reference"])
def test_compiles_without_graph_breaks(request_, monkeypatch):
    monkeypatch.setattr(dispatch, "requested", request_)
    module = Small()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=False)
    torch.testing.assert_close(compiled(*inputs(2)), module(*inputs(2)))
    variables = [v.requires_grad_() for v in inputs(2)]
    actual, expected = (
        torch.autograd.grad(call(*variables).square().sum(), variables) for call in (compiled, module)
    )
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_exports_with_dynamic_batch_and_without_gankit():
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(
        Small(), inputs(3), dynamic_shapes=({0: batch}, None, {0: batch}), strict=False
    )
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not any("gankit" in target for target in targets)
    for n in (1, 3, 5):
        torch.testing.assert_close(program.module()(*inputs(n)), Small()(*inputs(n)), rtol=1e-4, atol=1e-5)


class Images(nn.Module):
    """z -> images of a small generator."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.generator = StyleGAN2((3, 16, 8), CondSpec(0), **StyleGAN2.conformance).eval()

    def forward(self, z):
        return self.generator.synthesis(self.generator.mapping(z), noise_mode="const")


def test_a_generator_compiles_without_graph_breaks():
    z, images = torch.randn(2, 16), Images()
    compiled = torch.compile(images, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(z), images(z), rtol=1e-4, atol=1e-5)


def test_a_generator_exports_with_dynamic_batch():
    images, dim = Images(), torch.export.Dim("batch", min=1)
    program = torch.export.export(images, (torch.randn(2, 16),), dynamic_shapes=({0: dim},), strict=False)
    for n in (1, 4):
        z = torch.randn(n, 16)
        torch.testing.assert_close(program.module()(z), images(z), rtol=1e-4, atol=1e-5)
