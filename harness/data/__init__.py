"""Datasets: where pictures, image labels and masks come from."""
