"""What all tests share: each plugin below brings one real part."""

pytest_plugins = [
    "aws",
    "scripted_sns",
    "service",
]
