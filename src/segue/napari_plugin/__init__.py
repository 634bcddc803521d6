"""The plugin of napari: segment images, correct labels, train on them. Nothing else in segue imports it or napari."""
