"""One file a command: flags in, a job or two done, results out.

It imports everything below and is the only place that joins jobs; nothing imports it but `scripts/`.
"""
