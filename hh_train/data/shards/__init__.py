"""Latent shards: the format, the folder in the making, the manifest."""
