"""Compiled, immutable configuration: values and closures. Imports nothing of meshlib but errors."""
