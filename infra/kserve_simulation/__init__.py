"""KServe where its manager is not to be had: its two resources as far as we use them, and a controller that acts by its rules."""
