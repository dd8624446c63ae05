"""What a kept encoder is good for: one file, one protocol or task."""
