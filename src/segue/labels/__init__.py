"""Operations on label images: integer arrays of 0 background, −1 ignored, and classes or objects from 1 on.

The convention is defined here, and nothing is imported, so that specifications and planning can use them.
"""

IGNORED = -1  # the label of pixels that count nowhere, also in padding
