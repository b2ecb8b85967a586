"""Ops of the verb `encode`: frozen teachers and students. `xmodal.edges` has the pattern."""
