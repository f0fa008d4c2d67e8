"""Metrics, traces and the access log, hung on the engine's events."""
