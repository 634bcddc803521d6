"""A plate of wells, imaged field by field over time: stitched, labelled from its stains, cut into a dataset."""
