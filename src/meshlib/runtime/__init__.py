"""The live side of a mesh: the published snapshot and whoever waits for it."""
