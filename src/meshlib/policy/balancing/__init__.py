"""Load balancing: policies build pickers over a fixed set of endpoints."""
