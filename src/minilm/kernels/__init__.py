"""Compiled kernels (C++ for CPUs), loaded with ctypes: `library.py` finds them, `cpp/` is their source."""
