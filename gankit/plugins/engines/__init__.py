"""Engine plugins: sampling with plain PyTorch, torch.compile or OpenVINO."""
