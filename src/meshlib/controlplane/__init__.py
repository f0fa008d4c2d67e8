"""The embedded control plane: Istio YAML in, xDS resources out."""
