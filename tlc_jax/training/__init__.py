"""Training: configurations, crops, degradations, steps and runs."""
