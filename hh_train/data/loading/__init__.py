"""Planned batches from shards, wherever these lie."""
