"""Identity: from credentials to a principal."""
