#!/usr/bin/env python3
"""
Prove by REST and gRPC what the gateway does: check_gateway.py --values values/canary-10.yaml.
"""

from tfcanary.check_command import main

if __name__ == "__main__":
    raise SystemExit(main())
