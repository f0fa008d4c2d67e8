"""The xDS client: resources in, one validated snapshot out."""
