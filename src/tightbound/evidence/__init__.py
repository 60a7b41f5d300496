"""Evidence: estimates of log p(x), each with its side of the truth, its standard error and how it was computed."""
