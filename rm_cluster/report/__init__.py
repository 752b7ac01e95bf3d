"""What a person sees: a table on the terminal, and one page that opens from disk."""
