"""The commands and the service."""
