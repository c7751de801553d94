"""Whole jobs: configuration, resumable stages, report."""
