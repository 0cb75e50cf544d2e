"""Exporter plugins: trained generators as ONNX, OpenVINO or torch.export files."""
