"""The shared mathematics of adversarial training: losses, penalties, LatentModel."""
