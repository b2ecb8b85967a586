"""Benchmarks: ours against the peer's algorithm, interleaved in one process."""
