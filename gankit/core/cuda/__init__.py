"""The operators of the StyleGAN family, composed of torch's own: they export, compile and differentiate twice."""

from gankit.core.cuda.bias_act import bias_act, normalize_2nd_moment
from gankit.core.cuda.conv import conv2d_resample, modulated_conv2d
from gankit.core.cuda.filtered_lrelu import filtered_lrelu
from gankit.core.cuda.upfirdn2d import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d

__all__ = [
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
