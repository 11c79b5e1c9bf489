"""Datasets: where images, image labels and masks come from."""
