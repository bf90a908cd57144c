"""Which stretches of the footage become clips, and what is left out."""
