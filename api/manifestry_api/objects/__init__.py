"""Custom resources as REST shows and takes them: schemas, views, lists, look-ups, waiting.

What is special about artifacts or jobs belongs to their rooms. Uses `guard` and `request`.
"""
