"""Thin drivers between a client library and the policy engine."""
