"""
The commands: arguments and exit codes.
"""
