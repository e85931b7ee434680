"""Pure functions on images: read, cut, mask, redact."""
