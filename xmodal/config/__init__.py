"""Graph and run files: a strict reader, typed settings, one report of all mistakes."""
