"""A network, its parameters and pictures in; the restored pictures out."""
