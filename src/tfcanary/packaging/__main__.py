"""
`python -m tfcanary.packaging`.
"""

from tfcanary.packaging.command import main

if __name__ == "__main__":
    raise SystemExit(main())
