"""Kernels compiled in memory by LLVM. All modules but `axes` need llvmlite, see `kernels.load`."""
