"""Images: read and write, cut and paste back, mask, redact."""
