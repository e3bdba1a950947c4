"""Training methods: one file each, its recipes at the bottom. catalog.recipes() finds them."""
