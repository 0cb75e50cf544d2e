"""Conditioner plugins: labels (class, tags, caption) to embeddings for generator and discriminator."""
