"""Signals over time: spectra, clocks, windows, inertial readings. Tensors in, tensors out."""
