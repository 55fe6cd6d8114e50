"""The nouns: what an image, an upload and an event are, and what can go wrong; no input or output."""
