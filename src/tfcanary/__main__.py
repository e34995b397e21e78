"""
`python -m tfcanary` is the console command `tfcanary`.
"""

from tfcanary.commands.main import main

raise SystemExit(main())
