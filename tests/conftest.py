"""What all tests share: each plugin below brings one real part."""

pytest_plugins = [
    "planted",
    "aws",
    "browser",
    "deployed",
    "issuer",
    "mail_server",
    "pictures",
    "postgres",
    "receiver",
    "s3_servers",
    "scripted_s3",
    "scripted_sns",
    "service",
    "town",
    "strict_sns",
    "identified",
]
