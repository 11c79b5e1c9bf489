"""From the official archives to a dataset that is complete and verified."""
