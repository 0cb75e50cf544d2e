"""Regularizer plugins: gradient penalties, path length and auxiliary losses of generator and discriminator."""
