"""Architectures: one file each, plain modules."""
