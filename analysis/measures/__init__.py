"""What federations and methods came to: scores, comparisons, targets."""
