"""A generator's latent space used: points, walks, mixing, inversion, directions."""
