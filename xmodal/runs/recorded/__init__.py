"""Runs over recordings: what their verbs do, beside those over scenes."""
