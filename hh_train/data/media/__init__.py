"""Media files to clips and back."""
