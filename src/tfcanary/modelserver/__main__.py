"""
Run the server: ``python -m tfcanary.modelserver --model_name=M --model_base_path=DIR``.
"""

from tfcanary.modelserver import main

raise SystemExit(main())
