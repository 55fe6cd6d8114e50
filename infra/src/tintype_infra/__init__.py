"""Tintype on AWS, as code."""
