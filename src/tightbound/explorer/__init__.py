"""The explorer: a page in the browser to walk through the latent space of a run, served to this machine alone."""
