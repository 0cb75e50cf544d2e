"""Base classes of the plugins that the core calls: conditioners, networks, losses, regularizers, data sources."""
