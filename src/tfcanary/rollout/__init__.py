"""
Rollouts: step by step to a new version, or back to where it began, on evidence.
"""
