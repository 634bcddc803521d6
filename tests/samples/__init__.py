"""Made images, datasets, plates and studies for the tests."""
