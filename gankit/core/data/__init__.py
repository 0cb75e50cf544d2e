"""Resumable batches of images and labels, decoding of image files, caches of text embeddings, contact sheets."""
