"""The parts of `benchmarks/gpu_day.py`, and what runs them."""
