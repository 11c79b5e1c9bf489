"""Built-in plugins: one file, or one folder, each."""
