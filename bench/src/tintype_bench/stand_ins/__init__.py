"""Stand-ins for S3 and SNS that cost so little that a run measures their clients."""
