"""Gaussian splats: projection, compositing weights, rendering, fitting, and lifting to them.

A view of splats is a sparse matrix like every other lift: `compositing_operator` gives the share
that each splat has in each pixel, [pixels x splats]. Its product with any rows renders them, its
transpose lifts what a teacher saw in the pixels to the splats.
"""
