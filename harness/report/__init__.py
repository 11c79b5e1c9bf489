"""From records to tables and images; a function of the results folder alone."""
