"""Restoring: a network, its parameters and an image array in, the restored array out."""
