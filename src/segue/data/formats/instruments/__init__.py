"""Formats of instruments' programs: a module each, whose libraries are imported when a file is read."""
