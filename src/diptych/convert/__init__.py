"""Official weights of others, read without running anything of theirs, as models of this package."""
