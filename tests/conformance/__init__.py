"""Does a server speak tus 1.0.0? A black-box suite for any server: `python -m conformance URL`."""
