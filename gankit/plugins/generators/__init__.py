"""Generator plugins: StyleGAN2, StyleGAN3, StyleGAN-XL, StyleGAN-T, FastGAN and R3GAN."""
