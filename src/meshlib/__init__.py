"""meshlib: a service mesh inside Python."""

__version__ = "0.1.0"
