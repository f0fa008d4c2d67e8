"""Sans-I/O engine: what one call does, decided without network, clock or chance of its own."""
