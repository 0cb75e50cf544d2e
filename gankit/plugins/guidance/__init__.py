"""Guidance plugins: extra losses for the generator from pretrained networks (CLIP, image classifier)."""
