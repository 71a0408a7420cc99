"""What is done in C, by packages of others: checksums and compression."""
