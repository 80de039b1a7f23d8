"""Programs that run in other Python environments and answer us; they import nothing of ours but the bare images."""
