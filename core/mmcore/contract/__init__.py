"""The contract between the core and its plugins: hooks, recipes, values, protocols."""
