"""How objects and rows are kept in step, and how it is proved."""
