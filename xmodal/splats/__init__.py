"""Splats as values, in files and pictures: asked, selected and edited."""
