"""Safe reading and conversion of other code bases' model files; finding and combining models."""
