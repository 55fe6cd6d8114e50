"""Functions of AWS Lambda: what is asked is translated, and done by the same code that the service runs."""
