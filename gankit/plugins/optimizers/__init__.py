"""Adversarial loss plugins: non-saturating logistic, hinge and relativistic pairing loss."""
