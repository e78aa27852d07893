"""What people read: model cards, tables and figures, with their templates.

It imports `techniques` and the floors below, and knows nothing of command lines.
"""
