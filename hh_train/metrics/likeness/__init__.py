"""Whether clips show and let hear one person: likeness of face and voice to real clips of them, and of others."""
