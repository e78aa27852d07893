"""Any model by its name, with a head for the labels at hand and its image processor; techniques and adapters on disk.

It imports `cli`, `reports` and the floors below, and knows nothing of data.
"""
