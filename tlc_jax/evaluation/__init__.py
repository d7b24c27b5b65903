"""How well a network restores: metrics, reports, and sheets to look at."""
