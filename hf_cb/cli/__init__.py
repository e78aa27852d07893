"""Command lines: flags from dataclasses, output folders that are written whole or not at all, and the record of a run.

It imports `techniques` and the floors below, and knows nothing of models, data or reports.
"""
