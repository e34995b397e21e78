"""
Findings for a reader and for a CI: tables, JSON, JUnit XML and pages.
"""
