"""Workarounds of faults in the libraries, and kernels that are chosen by hand: one file each.

Each says which version of the library it is for and what it buys. `tests/common/test_workarounds.py` has a test for
each that fails when the library is mended, or when another version is pinned; then it is to be tried without.
"""
