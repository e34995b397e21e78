"""
Statistics of a verdict. Pure: no clock, no randomness, no network.
"""
