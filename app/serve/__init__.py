"""HTTP around inference."""
