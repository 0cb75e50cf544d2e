"""Feature network plugins: frozen pretrained networks (timm, CLIP, Inception) and their weight source."""
