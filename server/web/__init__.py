"""What every HTTP contract shares."""
