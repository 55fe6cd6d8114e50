"""Tintype: an image upload service that never loses an image it said it has."""
