"""What images look like to the ruler: one interface, one file an extractor; old versions stay."""
