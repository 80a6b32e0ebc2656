"""Pictures for people: drawings and curves."""
