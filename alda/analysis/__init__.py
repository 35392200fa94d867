"""Figures and numbers from run directories. Reads files; nothing outside this package imports it, but the commands."""
