"""Importer plugins: networks of other StyleGAN code bases, read from their snapshots and state dicts."""
