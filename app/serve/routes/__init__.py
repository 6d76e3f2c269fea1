"""One module for each concern; each has a `router`."""
