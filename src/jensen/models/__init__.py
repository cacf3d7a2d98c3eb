"""Front ends: from a model as the user wrote it to the one `Model` record.

One foreign library a file, imported inside functions.
"""
