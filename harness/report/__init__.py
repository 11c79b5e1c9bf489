"""From records to tables and pictures; a function of the results folder alone."""
