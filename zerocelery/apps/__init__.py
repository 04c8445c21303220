"""Programs: what ``zerocelery worker`` runs."""
