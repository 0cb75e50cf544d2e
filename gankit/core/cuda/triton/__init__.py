"""The operators of the StyleGAN family as Triton kernels for GPUs of compute capability 8.0 and later.

Nothing is compiled at install: Triton, which torch brings along, compiles a kernel when it is first called. Importing
this package raises ImportError where Triton is missing (torch built for CPUs only). The functions mean what those in
`gankit.core.cuda` do, which check arguments and fill in defaults; each is made of `torch.library` operators in the
namespace `gankit` with fake kernels and autograd, and computes in plain torch after one warning if its kernel fails.
"""

from gankit.core.cuda.triton.activate import bias_act
from gankit.core.cuda.triton.convolve import conv2d_resample, modulated_conv2d
from gankit.core.cuda.triton.filtered import filtered_lrelu
from gankit.core.cuda.triton.resample import upfirdn2d

__all__ = ["bias_act", "conv2d_resample", "filtered_lrelu", "modulated_conv2d", "upfirdn2d"]
