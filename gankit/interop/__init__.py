"""Foreign files, read without being executed; finding, converting and combining models."""
