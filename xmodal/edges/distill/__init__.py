"""Ops of the verb `distill`: losses, teacher to student. `xmodal.edges` has the pattern."""
