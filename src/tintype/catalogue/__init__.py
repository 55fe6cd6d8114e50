"""The catalogue: what is known about images, in PostgreSQL, as SQL beside the functions that run it."""
