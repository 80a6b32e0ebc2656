"""What every layer above stands on: files, locks, processes, hashing, the Hub."""
