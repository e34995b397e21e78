#!/usr/bin/env python3
"""
Run a real Kubernetes with Istio on this machine: `python scripts/local_cluster.py up`.
"""

from tfcanary.cluster.command import main

raise SystemExit(main())
