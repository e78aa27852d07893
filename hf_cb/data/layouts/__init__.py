"""How folders of images are laid out: which of them are splits, which are classes, and what lies beside.

It imports `errors` and, of `data`, what reads columns and keeps records.
"""
