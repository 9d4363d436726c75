"""Checks of an installation, from the versions of packages to a drive through the real node."""
