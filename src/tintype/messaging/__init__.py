"""Telling others: an event becomes a message, and a publisher hands it to whoever listens."""
