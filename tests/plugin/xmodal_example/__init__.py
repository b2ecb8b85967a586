"""Ops for xmodal from another package."""
