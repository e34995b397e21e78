#!/usr/bin/env python3
"""
Export a ResNet for TensorFlow Serving.

Usage: python scripts/export_resnet.py --arch resnet50 --weights random --output DIR --version 1
"""

from tfcanary.export import main

raise SystemExit(main())
