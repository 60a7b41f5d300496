"""A run as one page for people: what was learnt, whether to believe it, and what it looks like."""
