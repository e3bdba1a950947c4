"""The shared mathematics of diffusion: denoisers, samplers, guidance, DiffusionModel."""
