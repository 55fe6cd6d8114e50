"""Telling subscribers: the log of events becomes deliveries, and each is brought to whom it is for."""
