"""From cells to records: the graph of stages, where and when they run, and what a cell leaves."""
