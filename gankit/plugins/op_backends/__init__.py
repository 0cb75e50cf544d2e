"""Built-in plugins of kind `op-backend`: kernels of the operators for a device."""
