"""Ops of the verb `lift`: geometry without weights. `xmodal.edges` has the pattern."""
