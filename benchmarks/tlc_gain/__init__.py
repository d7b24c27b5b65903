"""What TLC gains, measured with networks that are trained here."""
