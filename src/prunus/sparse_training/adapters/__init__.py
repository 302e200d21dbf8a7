"""Callbacks that carry sparse training into the trainers of other libraries, one file for each library.

Each is imported by its own name, `prunus.sparse_training.adapters.lightning` or `….transformers`; nothing else of
Prunus imports those libraries.
"""
