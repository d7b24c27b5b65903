"""What TLC gains, measured with networks trained here."""
