"""The ViT with the techniques: every file that travels to the Hub with a saved model, and nothing else.

It imports the standard library, torch, transformers, huggingface_hub and its own files, so that it works without
the rest of the package.
"""
