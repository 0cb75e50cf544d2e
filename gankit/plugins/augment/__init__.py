"""Augmentation plugins: random transforms of the images that the discriminator sees (ADA, DiffAugment)."""
