"""Building blocks with equalised learning rates, shared by the StyleGAN generators and discriminators.

Weights are stored with unit variance and scaled when used (Karras et al. 2018, section 4.1), so that one learning rate
suits every layer. Names and shapes of parameters are those of the official networks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankit.core.cuda import bias_act, conv2d_resample, normalize_2nd_moment, setup_filter
from gankit.core.cuda.activations import activation
from gankit.core.cuda.bias_act import activate
from gankit.core.interfaces.conditions import Cond, embedding_of
from gankit.core.runtime.precision import at_least_float32, without_autocast


class FullyConnected(nn.Module):
    """`act(x W^T + b)`, in float32 even under autocast.

    Args:
        in_features: width of the input.
        out_features: width of the result.
        bias: add a learned bias.
        activation: name from the table of `bias_act`; its default gain applies.
        lr_multiplier: factor on the effective learning rate of weight and bias.
        weight_init: standard deviation of the effective weight, times sqrt(in_features).
        bias_init: initial effective bias, one number or one for each output.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        activation: str = "linear",
        lr_multiplier: float = 1,
        weight_init: float = 1,
        bias_init: float | Sequence[float] = 0,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier
        self.weight = nn.Parameter(torch.randn(out_features, in_features) * (weight_init / lr_multiplier))
        start = torch.as_tensor(bias_init, dtype=torch.float32) / lr_multiplier
        self.bias = nn.Parameter(start.expand(out_features).clone()) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        with without_autocast(x):
            x = at_least_float32(x)
            # scaling x is cheaper than scaling the weight for any batch below `out_features`
            x, w = x * self.weight_gain, self.weight.to(x.dtype)
            b = None if self.bias is None else self.bias * self.bias_gain
            if self.activation == "linear":
                return F.linear(x, w, None if b is None else b.to(x.dtype))
            y = F.linear(x, w)
            return bias_act(y, b, dim=y.ndim - 1, act=self.activation)


class Conv2dLayer(nn.Module):
    """Convolution with optional resampling, bias, activation and clamp.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the result.
        kernel_size: odd side of the kernel; the padding keeps the size.
        bias: add a learned bias.
        activation: name from the table of `bias_act`.
        up: integer up-sampling factor.
        down: integer down-sampling factor.
        resample_filter: FIR taps for `up` and `down`.
        conv_clamp: clamp the result to [-conv_clamp, conv_clamp]; None for no clamp.
    """

    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        bias: bool = True,
        activation: str = "linear",
        up: int = 1,
        down: int = 1,
        resample_filter: Sequence[float] = (1, 3, 3, 1),
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.activation, self.up, self.down, self.conv_clamp = activation, up, down, conv_clamp
        self.padding = kernel_size // 2
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.register_buffer("resample_filter", setup_filter(resample_filter))

    def forward(self, x: Tensor, gain: float = 1) -> Tensor:
        spec = activation(self.activation)
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        gain = gain * spec.gain
        fold = gain if spec.homogeneous else 1  # gain * act(y) = act(gain * y): the weight takes the gain
        w = (self.weight * (self.weight_gain * fold)).to(x.dtype)
        b = None if self.bias is None else (self.bias * fold).to(x.dtype)
        y = conv2d_resample(
            x,
            w,
            self.resample_filter,
            up=self.up,
            down=self.down,
            padding=self.padding,
            flip_weight=self.up == 1,
            b=b,
        )
        if spec.homogeneous:
            return activate(y, spec, spec.alpha, clamp, in_place=True)
        return bias_act(y, act=self.activation, gain=gain, clamp=clamp)


class MappingNetwork(nn.Module):
    """z and a condition -> w (StyleGAN2; conditional as in StyleGAN2-ADA, appendix). Always in float32.

    Args:
        z_dim: width of z; 0 where only the condition is mapped.
        c_dim: width of the condition's embedding; 0 for none.
        w_dim: width of w.
        num_ws: repeat w to [B, num_ws, w_dim]; None returns [B, w_dim].
        num_layers: number of fully connected layers.
        embed_features: width of the projected condition; None is `w_dim`.
        layer_features: width of the hidden layers; None is `w_dim`.
        activation: activation of the layers, a name from the table of `bias_act`.
        lr_multiplier: factor on the effective learning rate of the layers.
        w_avg_beta: decay of the running mean of w for each update; None keeps no mean.
        normalize_z: first scale each z to root mean square 1.
    """

    w_avg: Tensor

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int | None,
        *,
        num_layers: int = 8,
        embed_features: int | None = None,
        layer_features: int | None = None,
        activation: str = "lrelu",
        lr_multiplier: float = 0.01,
        w_avg_beta: float | None = 0.998,
        normalize_z: bool = True,
    ) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim, self.num_ws = z_dim, c_dim, w_dim, num_ws
        self.num_layers, self.w_avg_beta, self.normalize_z = num_layers, w_avg_beta, normalize_z
        embed_features = (embed_features or w_dim) if c_dim else 0
        if c_dim:
            self.embed = FullyConnected(c_dim, embed_features)
        widths = [z_dim + embed_features, *[layer_features or w_dim] * (num_layers - 1), w_dim]
        for i in range(num_layers):
            layer = FullyConnected(
                widths[i], widths[i + 1], activation=activation, lr_multiplier=lr_multiplier
            )
            self.add_module(f"fc{i}", layer)
        if w_avg_beta is not None:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(
        self,
        z: Tensor | None,
        cond: Cond = None,
        *,
        truncation_psi: float = 1,
        truncation_cutoff: int | None = None,
        update_emas: bool = False,
        truncation_center: Tensor | None = None,
    ) -> Tensor:
        """z [B, z_dim] and the condition -> ws [B, num_ws, w_dim], or w [B, w_dim] if `num_ws` is None.

        `truncation_center`, [w_dim] or [B or 1, w_dim], replaces the global mean w_avg. Raises ValueError for a z or an
        embedding of another shape."""
        parts = []
        if self.z_dim:
            if z is None or z.shape[1:] != (self.z_dim,):
                raise ValueError(f"z must be [B, {self.z_dim}], not {None if z is None else list(z.shape)}")
            z = at_least_float32(z)
            parts.append(normalize_2nd_moment(z) if self.normalize_z else z)
        if self.c_dim:
            c = embedding_of(cond)
            if c is None:
                raise ValueError(
                    f"this network is conditional: it needs a condition with an embedding of width {self.c_dim}"
                )
            if c.shape[1:] != (self.c_dim,):
                raise ValueError(f"the condition's embedding must be [B, {self.c_dim}], not {list(c.shape)}")
            parts.append(normalize_2nd_moment(self.embed(at_least_float32(c))))
        w = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
        for i in range(self.num_layers):
            w = self.get_submodule(f"fc{i}")(w)

        if update_emas and self.w_avg_beta is not None:
            self.w_avg.copy_(w.detach().mean(0).lerp(self.w_avg, self.w_avg_beta))
        if self.num_ws is not None:
            w = w[:, None].expand(-1, self.num_ws, -1)
        if truncation_psi == 1:
            return w
        center = (self.w_avg if truncation_center is None else truncation_center).to(w.dtype)
        center = center[..., None, :] if w.ndim == 3 else center
        if truncation_cutoff is None or w.ndim == 2:
            return center.lerp(w, truncation_psi)
        return torch.cat([center.lerp(w[:, :truncation_cutoff], truncation_psi), w[:, truncation_cutoff:]], 1)


def minibatch_std(x: Tensor, group_size: int | None, num_channels: int = 1) -> Tensor:
    """x [N, C, H, W] -> [N, C + num_channels, H, W]: append maps with the standard deviation over groups of samples
    (Karras et al. 2018, section 3).

    The group size is the largest one up to `group_size` that divides N; None makes the batch one group. Sample i
    belongs to group i mod (N / size).
    """
    if num_channels == 0:
        return x
    n, c, h, w = x.shape
    size = min(group_size or n, n)
    while n % size:
        size -= 1
    y = x.reshape(size, n // size, num_channels, c // num_channels, h, w)
    y = (y.var(0, correction=0) + 1e-8).sqrt().mean((2, 3, 4))  # [N / size, num_channels]
    y = y.repeat(size, 1)[:, :, None, None].expand(-1, -1, h, w)
    return torch.cat([x, y.to(x.dtype)], 1)
