"""The techniques on any vision transformer: which architecture has which parts, and what is added to them.

It imports `vit_cb` and `errors`.
"""
