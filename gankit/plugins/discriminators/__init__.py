"""Discriminator plugins: StyleGAN2, Projected GAN, StyleGAN-XL, StyleGAN-T and R3GAN."""
