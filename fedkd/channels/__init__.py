"""What happens to a client's report before it travels, one channel a file."""
