"""How fast and how small Tintype is, measured beside two yardsticks."""
