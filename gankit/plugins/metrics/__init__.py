"""Metric plugins: Frechet and kernel distances, precision and recall, path length, equivariance and others."""
