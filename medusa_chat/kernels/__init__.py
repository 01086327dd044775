"""Triton kernels for NVIDIA GPUs, each beside its plain-torch reference of the same signature."""
