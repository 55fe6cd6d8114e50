"""The HTTP door: requests become calls, results become answers, and every failure becomes a problem."""
