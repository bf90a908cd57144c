"""Blind votes between checkpoints: clips made alike in all but content, balanced pairs, votes that outlive a kill."""
