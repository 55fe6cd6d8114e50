"""How bytes become an image: received within limits, then finished by one verb."""
