"""The page a person reads, and the same as JSON and Markdown."""
