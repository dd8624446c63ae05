"""Vectors at rest: stored, searched, compared."""
