"""Recordings: streams of one moment (sound, motion, skeleton, film), in files or in memory."""
