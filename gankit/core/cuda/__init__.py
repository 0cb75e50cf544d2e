"""The operators of the StyleGAN family, each in several implementations of one meaning; see `dispatch`."""

from gankit.core.cuda.bias_act import normalize_2nd_moment
from gankit.core.cuda.constant_weights import ConstantWeights
from gankit.core.cuda.operators import (
    add_rgb,
    bias_act,
    conv2d_resample,
    downsample2d,
    filter2d,
    filtered_lrelu,
    modulated_conv2d,
    setup_filter,
    upfirdn2d,
    upsample2d,
)

__all__ = [
    "ConstantWeights",
    "add_rgb",
    "bias_act",
    "conv2d_resample",
    "downsample2d",
    "filter2d",
    "filtered_lrelu",
    "modulated_conv2d",
    "normalize_2nd_moment",
    "setup_filter",
    "upfirdn2d",
    "upsample2d",
]
