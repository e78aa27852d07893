"""Images and labels: where they come from, which ones a process sees, and what happens to them on the way to the model.

It imports `cli`, `reports` and the floors below, and knows nothing of models.
"""
