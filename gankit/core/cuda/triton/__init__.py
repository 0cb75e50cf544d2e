"""The operators of the StyleGAN family as Triton kernels for GPUs of compute capability 8.0 and later.

Nothing is compiled at install: Triton, which torch brings along, compiles a kernel when it is first called. Importing
this package raises ImportError where Triton is missing (torch built for CPUs only). The functions have the signatures
and meaning of those in `gankit.core.cuda`; each is made of `torch.library` operators in the namespace `gankit` with
fake kernels and autograd, and computes in plain torch after one warning if its kernel fails.
"""

from gankit.core.cuda.triton.activate import bias_act
from gankit.core.cuda.triton.convolve import modulated_conv2d
from gankit.core.cuda.triton.filtered import filtered_lrelu
from gankit.core.cuda.triton.resample import downsample2d, filter2d, upfirdn2d, upsample2d

# The reference vectors in tests/golden that these functions must meet.
GOLDEN_FILES = ("ops_bias_act", "ops_upfirdn2d", "ops_modconv_sg2", "ops_modconv_sg3", "ops_filtered_lrelu")

__all__ = [
    "bias_act",
    "downsample2d",
    "filter2d",
    "filtered_lrelu",
    "modulated_conv2d",
    "upfirdn2d",
    "upsample2d",
]
