"""Names for authors of op backends: the composites to build on, prepared weights, and checks of where kernels may run.

The functions named like an operator are its composite, of torch's operators: unchecked, all arguments in the form that
a backend's methods get them. `operators` has the public ones.
"""

from __future__ import annotations

from gankit.core.cuda import operators
from gankit.core.cuda.activations import ACTIVATIONS
from gankit.core.cuda.add_rgb import add_rgb
from gankit.core.cuda.arguments import filter_size
from gankit.core.cuda.bias_act import bias_act
from gankit.core.cuda.constant_weights import ConstantWeights, Kernels, Ready, ready_for
from gankit.core.cuda.conv2d_resample import conv2d_resample, transposed_padding
from gankit.core.cuda.filtered_lrelu import correlation_taps, filtered_lrelu, output_size
from gankit.core.cuda.modulated_conv2d import modulated_conv2d, modulation
from gankit.core.cuda.primitives import Convolutions, conv2d, conv_transpose2d, multiplies_like
from gankit.core.cuda.upfirdn2d import upfirdn2d
from gankit.core.cuda.values_only import values_only
from gankit.core.interfaces.op_backend import OpBackend
from gankit.core.runtime.devices import bf16_units, multiplies

__all__ = [
    "ACTIVATIONS",
    "ConstantWeights",
    "Convolutions",
    "Kernels",
    "OpBackend",
    "Ready",
    "add_rgb",
    "bf16_units",
    "bias_act",
    "conv2d",
    "conv2d_resample",
    "conv_transpose2d",
    "correlation_taps",
    "filter_size",
    "filtered_lrelu",
    "modulated_conv2d",
    "modulation",
    "multiplies",
    "multiplies_like",
    "operators",
    "output_size",
    "ready_for",
    "transposed_padding",
    "upfirdn2d",
    "values_only",
]
